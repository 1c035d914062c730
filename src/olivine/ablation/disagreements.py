"""Questions on which two configurations disagree: the image, both answers, and the reference answer.

The selection depends on the answers alone; the page that shows it is in `report`.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from olivine.ablation.measures import FinishedEvaluation
from olivine.ablation.results import Results
from olivine.data.images import ImageSource, image_source
from olivine.errors import DataError
from olivine.records import Question
from olivine.statistics import Configuration, generator

#: Longest side of an image in the page, in pixels.
_SIDE = 256
#: Longest answer in the page, in characters.
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One question about which one configuration is right and the other is not."""

    benchmark: str
    question: str
    truth: str
    #: (configuration's name, its answer, whether it is right), the baseline first.
    said: tuple[tuple[str, str, bool], tuple[str, str, bool]]
    #: The image as a data URI; None without one or where it cannot be read.
    image: str | None


@dataclass(frozen=True, slots=True)
class DisagreementSet:
    """The questions whose answers turn right or wrong with a change of one axis."""

    axis: str
    level: str
    #: Over all benchmarks: right only before the change, right only after it.
    lost: int
    won: int
    examples: tuple[Disagreement, ...]


def disagreements(results: Results, *, each: int = 4) -> list[DisagreementSet]:
    """Return, for every non-baseline level of every axis, up to `each` of the questions that the change decides.

    Half of the examples are won and half lost, as far as available, drawn from all benchmarks together.
    """
    study = results.plan.study
    seed = study.recipe.seeds[0]
    found = []
    for axis, base, other in _neighbours(results):
        pools: dict[bool, list[tuple[str, Question, FinishedEvaluation, FinishedEvaluation]]] = {True: [], False: []}
        for name in study.recipe.benchmarks:
            runs = results.evaluations.of(name)
            if (base, seed) in runs and (other, seed) in runs:
                for won, question in _decided(runs[base, seed], runs[other, seed]):
                    pools[won].append((name, question, runs[base, seed], runs[other, seed]))
        examples = []
        for won, count in ((True, each - each // 2), (False, each // 2)):
            random = generator("gallery", axis, "\n".join(q.id for _, q, *_ in pools[won]))
            picked = sorted(random.permutation(len(pools[won]))[:count])
            examples += [_disagreement(results, base, other, won, *pools[won][position]) for position in picked]
        level = other[list(study.axes).index(axis)]
        found.append(DisagreementSet(axis, level, len(pools[False]), len(pools[True]), tuple(examples)))
    return found


def _neighbours(results: Results) -> Iterator[tuple[str, Configuration, Configuration]]:
    """Yield (axis, configuration, the one that differs on that axis alone), from the baseline where it was run."""
    study = results.plan.study
    names = list(study.axes)
    for position, axis in enumerate(names):
        for level in study.axes[axis][1:]:
            for configuration in study.configurations:
                other = (*configuration[:position], level, *configuration[position + 1 :])
                if configuration[position] == study.axes[axis][0] and other in study.configurations:
                    yield axis, configuration, other
                    break


def _decided(base: FinishedEvaluation, other: FinishedEvaluation) -> Iterator[tuple[bool, Question]]:
    """Yield (whether the change won it, question) for each question fully right in one and fully wrong in the other."""
    before, after = base.correct, other.correct
    for question in base.source.questions:
        if abs(before.get(question.id, 0) - after.get(question.id, 0)) == 1:
            yield after[question.id] > before[question.id], question


def _disagreement(
    results: Results,
    base: Configuration,
    other: Configuration,
    won: bool,
    name: str,
    question: Question,
    one: FinishedEvaluation,
    two: FinishedEvaluation,
) -> Disagreement:
    study = results.plan.study
    settings = study.recipe.benchmarks[name]
    root = settings.images or one.source.benchmark.images(settings.data)
    answer_one, answer_two = (run.texts[question.id] for run in (one, two))
    return Disagreement(
        benchmark=name,
        question=question.prompt,
        truth=", ".join(dict.fromkeys(question.references)) or "–",
        said=(
            (study.configuration_name(base), _short(answer_one), not won),
            (study.configuration_name(other), _short(answer_two), won),
        ),
        image=_data_uri(root, question.image),
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _data_uri(root: ImageSource | Path, name: str | None) -> str | None:
    if name is None:
        return None
    try:
        image = image_source(root).open(name)
    except DataError:
        return None
    image.thumbnail((_SIDE, _SIDE))
    raw = io.BytesIO()
    image.save(raw, format="PNG")
    return "data:image/png;base64," + base64.b64encode(raw.getvalue()).decode("ascii")
