"""What a benchmark declares about itself: its metrics, clusters, kinds of question, answers and files.

Tables, studies, the majority-class baseline, help texts and the page of benchmarks read it; nothing is scored here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from olivine.records import MissingRule

#: What an answer is: yes or no (or true or false), an option's letter, a number, a box, a short text, or free text.
Reply = Literal["yes-no", "choice", "number", "box", "short text", "free text"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, or a family of them.

    Attributes:
        name: as scores name it; `*` stands for a group's name (`structural/*`).
        label: what it is, in a few words; reports write it after the benchmark's title.
        unit: what people read it in.
        scale: times the official figure gives the figure in `unit`.
        range: the lowest and highest possible figure in `unit`; None for no bound.
        mean_of_items: it is a hundred times the plain mean of the items (but for the official tool's rounding), so
            that intervals need no rescoring.
        reported: whether studies report it; the first such metric is the headline.
        lower_is_better: whether a lower figure is the better one.
        variants: the variants that have it so; None for all.
    """

    name: str
    label: str
    unit: str = "%"
    scale: float = 1.0
    range: tuple[float, float | None] = (0.0, 100.0)
    mean_of_items: bool = False
    reported: bool = False
    lower_is_better: bool = False
    variants: tuple[str, ...] | None = None

    def covers(self, name: str, variant: str | None = None) -> bool:
        """Return whether a score's metric `name` is this one, or of this family, under `variant` (None: under any)."""
        of_variant = self.variants is None or variant is None or variant in self.variants
        return of_variant and (name == self.name or ("*" in self.name and fnmatchcase(name, self.name)))

    def shown(self, official: float) -> float:
        """Return the official figure in `unit`."""
        return official * self.scale


#: The share of questions right, which every benchmark has: it follows from the items.
CORRECT = Metric("correct", "questions right", mean_of_items=True, reported=True)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a benchmark is, for everything outside its own file.

    Attributes:
        title: its name as its authors write it.
        metrics: its metrics, the most telling first. A metric that is not declared is shown as it is, without a unit.
        cluster: what one cluster is.
        reply: what an answer is.
        kind: the detail of its questions that says of what kind a question is; None where all are of one kind.
        files: the question files that it reads.
        answers: the answer files that it reads besides LLaVA's answer lines.
        missing: what happens to questions without an answer, by variant; they are wrong under a variant not named.
    """

    title: str
    metrics: tuple[Metric, ...]
    cluster: str
    reply: Reply
    kind: str | None = None
    files: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    missing: Mapping[str, MissingRule] = field(default_factory=dict)

    def metric(self, name: str, variant: str | None = None) -> Metric | None:
        """Return the declared metric that a score's metric `name` is, if any."""
        return next((metric for metric in self.metrics if metric.covers(name, variant)), None)

    def shown(self, metrics: Mapping[str, float], variant: str | None = None) -> list[tuple[str, float, str]]:
        """Return each metric of a score as (name, figure, unit) in the unit that people read."""
        found = []
        for name, official in metrics.items():
            metric = self.metric(name, variant)
            found.append((name, official, "") if metric is None else (name, metric.shown(official), metric.unit))
        return found

    def headlines(self, metrics: Mapping[str, float], variant: str | None = None) -> list[tuple[str, float, str]]:
        """Return the reported metrics that a score has, as `shown` does; all of them if it has none."""
        names = {metric.name for metric in self.reported(variant, [metrics])} & metrics.keys()
        return self.shown({name: metrics[name] for name in metrics if name in names} or metrics, variant)

    def reported(self, variant: str | None, scores: Iterable[Iterable[str]]) -> tuple[Metric, ...]:
        """Return the metrics that a study reports, the headline first: those that all `scores` have.

        Args:
            variant: the scoring variant; None for any.
            scores: the names of each evaluation's metrics.
        """
        available = [{*names, CORRECT.name} for names in scores]
        found = tuple(
            metric
            for metric in self.metrics
            if metric.reported
            and metric.covers(metric.name, variant)
            and all(metric.name in names for names in available)
        )
        return found or (CORRECT,)
