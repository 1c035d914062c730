"""Questions on which two configurations part ways: the image, what each said, and the truth.

Which are shown follows from the answers alone; the page that shows them is in `report`.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from olivine.ablation.measures import Evaluated
from olivine.ablation.results import Results
from olivine.data.images import ImageSource, image_source
from olivine.errors import DataError
from olivine.records import Question
from olivine.statistics import Configuration, generator

#: Longest side of an image in the page, in pixels.
_SIDE = 256
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
    """The questions that a change of one axis decides, for or against."""

    axis: str
    level: str
    #: Over all benchmarks: right only before the change, right only after it.
    lost: int
    won: int
    shown: tuple[Disagreement, ...]


def disagreements(results: Results, *, each: int = 4) -> list[DisagreementSet]:
    """For every level that differs from the baseline configuration on one axis, `each` of the questions that it decides.

    Half of those shown are won and half lost, as far as there are such, over all benchmarks in turn.
    """
    study = results.plan.study
    seed = study.recipe.seeds[0]
    found = []
    for axis, base, other in _neighbours(results):
        pools: dict[bool, list[tuple[str, Question, Evaluated, Evaluated]]] = {True: [], False: []}
        for name in study.recipe.benchmarks:
            runs = results.evaluations.of(name)
            if (base, seed) in runs and (other, seed) in runs:
                for won, question in _decided(runs[base, seed], runs[other, seed]):
                    pools[won].append((name, question, runs[base, seed], runs[other, seed]))
        shown = []
        for won, count in ((True, each - each // 2), (False, each // 2)):
            random = generator("gallery", axis, "\n".join(q.id for _, q, *_ in pools[won]))
            picked = sorted(random.permutation(len(pools[won]))[:count])
            shown += [_disagreement(results, base, other, won, *pools[won][position]) for position in picked]
        level = other[list(study.axes).index(axis)]
        found.append(DisagreementSet(axis, level, len(pools[False]), len(pools[True]), tuple(shown)))
    return found


def _neighbours(results: Results) -> Iterator[tuple[str, Configuration, Configuration]]:
    """(axis, configuration, the configuration that differs from it on that axis alone), from the baseline if it is there."""
    study = results.plan.study
    names = list(study.axes)
    for position, axis in enumerate(names):
        for level in study.axes[axis][1:]:
            for configuration in study.configurations:
                other = (*configuration[:position], level, *configuration[position + 1 :])
                if configuration[position] == study.axes[axis][0] and other in study.configurations:
                    yield axis, configuration, other
                    break


def _decided(base: Evaluated, other: Evaluated) -> Iterator[tuple[bool, Question]]:
    """(whether the change won it, question) for every question that one has fully right and the other not at all."""
    before, after = base.correct, other.correct
    for question in base.asked.questions:
        if abs(before.get(question.id, 0) - after.get(question.id, 0)) == 1:
            yield after[question.id] > before[question.id], question


def _disagreement(
    results: Results,
    base: Configuration,
    other: Configuration,
    won: bool,
    name: str,
    question: Question,
    one: Evaluated,
    two: Evaluated,
) -> Disagreement:
    study = results.plan.study
    asked = study.recipe.benchmarks[name]
    root = asked.images or one.asked.benchmark.images(asked.data)
    said_one, said_two = (run.texts[question.id] for run in (one, two))
    return Disagreement(
        benchmark=name,
        question=question.prompt,
        truth=", ".join(dict.fromkeys(question.references)) or "–",
        said=(
            (study.configuration_name(base), _short(said_one), not won),
            (study.configuration_name(other), _short(said_two), won),
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
