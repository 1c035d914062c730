"""Estimates and effects with their uncertainty; scores in, numbers out.

How a benchmark's answers become scores of clusters is decided elsewhere; which configurations an effect compares is in
`design`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from olivine.statistics.clusters import Array
from olivine.statistics.components import StandardErrors, standard_errors
from olivine.statistics.design import Contrast
from olivine.statistics.intervals import Interval, t_quantile
from olivine.statistics.permutation import holm, sign_flip
from olivine.statistics.power import detectable_effect, half_width
from olivine.statistics.scores import ClusteredScores

#: A tie is shown at 5 % by two one-sided tests, which is what an interval at this level says.
_TIE_LEVEL = 0.90


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its uncertainty, in the units of the score.

    `over_questions` is the interval for the given trained models; `interval` also covers other training runs if there
    was more than one seed, and is the same otherwise.
    """

    value: float
    interval: Interval
    over_questions: Interval
    standard_errors: StandardErrors
    clusters: int
    seeds: int


@dataclass(frozen=True, slots=True)
class Effect:
    """One contrast on one score.

    `p_questions` is the paired permutation test over clusters, and `p_mid` its mid-p, which is less conservative where
    few clusters differ. `p` is the one to decide by: with several seeds a test that treats seeds as random too,
    otherwise `p_questions`. `p_holm` is `p` corrected over the family. `detectable` is the smallest true effect that a
    study of this size would find significant at 5 % four times out of five. `tied_within` is the smallest margin
    within which two one-sided tests at 5 % show the two sides to be equal.
    """

    contrast: Contrast
    estimate: Estimate
    p_questions: float
    p_mid: float
    p: float
    p_holm: float
    detectable: float
    tied_within: float


def estimates(scores: ClusteredScores, *, level: float = 0.95) -> list[Estimate]:
    """Return the estimate of every configuration's score."""
    return [
        _estimate(values, scores.interval(configuration, level), scores.limits, level)
        for configuration, values in enumerate(scores.values)
    ]


def effects(scores: ClusteredScores, contrasts: Sequence[Contrast], random: np.random.Generator) -> list[Effect]:
    """Return the effect of every contrast, paired over clusters and seeds.

    P-values are Holm-corrected over the main effects, and separately over the interactions.

    Args:
        scores: configurations in the order of the contrasts' weights.
        contrasts: what is compared.
        random: for sign patterns, where there are too many to try all.
    """
    if not contrasts:
        return []
    weights = np.array([contrast.weights for contrast in contrasts])
    contributions = np.einsum("kc,csu->uk", weights, scores.contributions) / scores.contributions.shape[1]
    contributions[np.abs(contributions) < 1e-12] = 0
    tested = np.array(sign_flip(contributions, random)).T.tolist()
    found = [difference(scores, contrast.weights) for contrast in contrasts]
    ties = [difference(scores, contrast.weights, level=_TIE_LEVEL).interval for contrast in contrasts]
    p_values = [_p(estimate, p) for estimate, (p, _) in zip(found, tested, strict=True)]
    return corrected(
        Effect(contrast, estimate, of_questions, mid, p, p, detectable_effect(estimate.standard_errors), _reach(tie))
        for contrast, estimate, (of_questions, mid), p, tie in zip(
            contrasts, found, tested, p_values, ties, strict=True
        )
    )


def difference(scores: ClusteredScores, weights: Array, *, level: float = 0.95) -> Estimate:
    """Return the estimate of a weighted sum of the scores, whose weights sum to zero."""
    values = np.einsum("c,csu->su", weights, scores.values)
    values[np.abs(values) < 1e-12] = 0
    reach = None if scores.span is None else scores.span * float(np.maximum(weights, 0).sum())
    limits = (-np.inf, None) if reach is None else (-reach, reach)
    return _estimate(values, scores.difference(weights, level), limits, level)


def corrected(family: Iterable[Effect]) -> list[Effect]:
    """Return the same effects with `p_holm` over all their main effects, and separately over all interactions."""
    effects = list(family)
    adjusted = [0.0] * len(effects)
    for is_main in (True, False):
        positions = [number for number, effect in enumerate(effects) if (effect.contrast.order == 1) is is_main]
        for position, p in zip(positions, holm([effects[position].p for position in positions]), strict=True):
            adjusted[position] = p
    return [replace(effect, p_holm=p) for effect, p in zip(effects, adjusted, strict=True)]


def _estimate(values: Array, over_questions: Interval, limits: tuple[float, float | None], level: float) -> Estimate:
    seeds, clusters = values.shape
    value, about = float(values.mean()), standard_errors(values)
    return Estimate(
        value, _with_seeds(value, over_questions, about, limits, level), over_questions, about, clusters, seeds
    )


def _with_seeds(
    value: float, over_questions: Interval, about: StandardErrors, limits: tuple[float, float | None], level: float
) -> Interval:
    """Return the interval widened by the uncertainty between training runs, each side alone."""
    if about.seeds is None or about.clusters < 2:
        return over_questions
    of_seeds = t_quantile((1 + level) / 2, about.runs - 1) * about.seeds
    low = value - math.hypot(value - over_questions.low, of_seeds)
    high = value + math.hypot(over_questions.high - value, of_seeds)
    return Interval(max(limits[0], low), high if limits[1] is None else min(limits[1], high))


def _reach(interval: Interval) -> float:
    return max(abs(interval.low), abs(interval.high))


def _p(estimate: Estimate, over_questions: float) -> float:
    """Return the smallest level at which both uncertainties exclude 0; the permutation p with one seed."""
    if estimate.seeds == 1:
        return over_questions
    if estimate.value == 0 or not math.isfinite(estimate.standard_errors.questions):
        return 1.0
    low, high = 1e-12, 1.0  # bisection: the half-width falls as p rises
    for _ in range(60):
        middle = (low + high) / 2
        if half_width(estimate.standard_errors, 1 - middle / 2) > abs(estimate.value):
            low = middle
        else:
            high = middle
    return high
