"""Compare a study's effects with a published table's: same direction, and is the published effect in the interval?

The tables are in `published`. They have no intervals, so agreement is one-sided.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from olivine.ablation.published import PublishedTable
from olivine.ablation.results import Results
from olivine.statistics import Effect


@dataclass(frozen=True, slots=True)
class Agreement:
    """One effect, here and as published, both in the units of the reports."""

    label: str
    ours: str
    theirs: str
    published: float
    effect: Effect

    @property
    def same_sign(self) -> bool:
        """Whether both point the same way."""
        return self.published * self.effect.estimate.value > 0

    @property
    def inside(self) -> bool:
        """Whether the published effect lies in our interval."""
        return self.effect.estimate.interval.holds(self.published)


@dataclass(frozen=True, slots=True)
class PublishedEffect:
    """One main effect of a published table."""

    change: str
    label: str
    effect: float


def published_effects(table: PublishedTable) -> list[PublishedEffect]:
    """Return every main effect of every column, in the units of Olivine's reports."""
    return [
        PublishedEffect(contrast.name, metric.label, effect)
        for metric in table.metrics
        for contrast, effect in table.effects(metric)
        if contrast.order == 1
    ]


def compare(results: Results, table: PublishedTable) -> list[Agreement]:
    """Return every main effect that the study and the table share.

    Axes are matched by name and levels by position (the first is the baseline in both): a study's `small` and
    `large` correspond to the paper's 2B and 7B. Columns are matched by benchmark and metric.
    """
    level_of = dict(_matched_levels(results.plan.study.axes, table.axes))
    found = []
    for metric in table.metrics:
        published = {contrast.levels: effect for contrast, effect in table.effects(metric)}
        for outcome in results.outcomes:
            if (outcome.benchmark, outcome.measure.name) != (metric.benchmark, metric.metric):
                continue
            for effect in outcome.effects:
                theirs = level_of.get(effect.contrast.levels[0])
                if effect.contrast.order == 1 and theirs is not None:
                    stated = published[(theirs,)]
                    found.append(Agreement(metric.label, effect.contrast.name, "=".join(theirs), stated, effect))
    return found


def _matched_levels(
    ours: Mapping[str, tuple[str, ...]], theirs: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    for axis, levels in ours.items():
        if len(theirs.get(axis, ())) == len(levels):
            yield from (((axis, a), (axis, b)) for a, b in zip(levels[1:], theirs[axis][1:], strict=True))
