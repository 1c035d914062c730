"""Compare models on the same questions: difference, interval, test, ties, items won and lost, power.

Arrays in, numbers out; where the items come from (an evaluation's folder, another tool's log) is decided elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from olivine.statistics.clusters import Array
from olivine.statistics.design import Contrast
from olivine.statistics.effects import Effect, Estimate, corrected, effects, estimates
from olivine.statistics.power import equivalence, power_of
from olivine.statistics.randomness import generator
from olivine.statistics.scores import ClusteredScores


@dataclass(frozen=True, slots=True)
class PairedItems:
    """The items of several models on one benchmark's questions that all of them answered.

    `items` is `[models, questions]` in percent; `clusters` names each question's cluster.
    """

    items: Array
    clusters: Sequence[str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Model `second` minus model `first` on one benchmark.

    `effect.p_holm` is corrected over all comparisons made together. `won` counts the items on which `second` does
    better, `lost` those on which it does worse. `tied` says whether two one-sided tests at 5 % show the two to be
    equal within the margin, None without a margin; `p_equivalence` is their p-value. `power` is the probability that a
    test of this size finds a true difference as large as the margin; None without one.
    """

    benchmark: str
    first: int
    second: int
    effect: Effect
    won: int
    lost: int
    questions: int
    tied: bool | None = None
    p_equivalence: float | None = None
    power: float | None = None


def model_scores(paired: PairedItems) -> list[Estimate]:
    """Return every model's mean item with its interval over clusters."""
    return estimates(_scores(paired)[0])


def compare(
    benchmarks: Mapping[str, PairedItems],
    *,
    margin: float | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> list[Comparison]:
    """Compare every pair of models on every benchmark, with Holm's correction over all of them.

    The same items give the same figures on every run.

    Args:
        benchmarks: benchmark -> the items of the models, in one order of models.
        margin: the difference in percentage points within which two models count as tied, if any.
        pairs: (first, second) models; None for every pair in their order.

    Raises:
        ValueError: a benchmark has no question, or fewer than two clusters, or a margin that is not above zero.
    """
    found = []
    for name, paired in benchmarks.items():
        models, questions = paired.items.shape
        if questions == 0 or len(set(paired.clusters)) < 2:
            raise ValueError(f"{name}: {questions} questions in {len(set(paired.clusters))} clusters; two are needed")
        selected = list(combinations(range(models), 2)) if pairs is None else list(pairs)
        scores, random = _scores(paired)
        contrasts = [_contrast(name, first, second, models) for first, second in selected]
        for (first, second), effect in zip(selected, effects(scores, contrasts, random), strict=True):
            change = paired.items[second] - paired.items[first]
            won, lost = int((change > 0).sum()), int((change < 0).sum())
            comparison = Comparison(name, first, second, effect, won, lost, questions)
            found.append(comparison if margin is None else _with_tie(comparison, margin))
    family = corrected(comparison.effect for comparison in found)
    return [replace(comparison, effect=effect) for comparison, effect in zip(found, family, strict=True)]


def _scores(paired: PairedItems) -> tuple[ClusteredScores, np.random.Generator]:
    names = sorted(set(paired.clusters))
    position = {name: number for number, name in enumerate(names)}
    cluster_of_item: NDArray[np.int64] = np.array([position[name] for name in paired.clusters], dtype=np.int64)
    items = np.ascontiguousarray(paired.items, dtype=float)
    random = generator("compare", "\n".join(paired.clusters), items.tobytes())
    return ClusteredScores.of_items(items[:, None, :], cluster_of_item), random


def _contrast(benchmark: str, first: int, second: int, models: int) -> Contrast:
    weights = np.zeros(models)
    weights[first], weights[second] = -1.0, 1.0
    return Contrast(((benchmark, f"{first}-{second}"),), weights)


def _with_tie(comparison: Comparison, margin: float) -> Comparison:
    effect = comparison.effect
    about = effect.estimate.standard_errors
    p = equivalence(effect.estimate.value, about, margin)
    tied = effect.tied_within <= margin
    return replace(comparison, tied=tied, p_equivalence=p, power=power_of(margin, about))
