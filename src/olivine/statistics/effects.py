"""Estimates and effects with their uncertainty; arrays in, numbers out.

How a benchmark's answers become values of clusters is decided elsewhere; which configurations an effect compares is in
`design`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from olivine.statistics.clusters import Array
from olivine.statistics.components import StandardErrors, standard_errors
from olivine.statistics.design import Contrast
from olivine.statistics.intervals import Interval, cluster_intervals, t_cumulative, t_quantile
from olivine.statistics.permutation import holm, sign_flip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its uncertainty, in the units of the score.

    `over_questions` is the bootstrap interval for the given trained models; `interval` also covers other training runs
    if there was more than one seed, and is the same otherwise.
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

    `p_questions` is the paired permutation test over clusters. `p` is the one to decide by: with several seeds a t-test
    that treats seeds as random too, otherwise `p_questions`. `p_holm` is `p` corrected over the family. `detectable` is
    the smallest true effect that a study of this size would find significant at 5 % four times out of five.
    """

    contrast: Contrast
    estimate: Estimate
    p_questions: float
    p: float
    p_holm: float
    detectable: float


def estimates(values: Array, random: np.random.Generator, *, level: float = 0.95) -> list[Estimate]:
    """Return estimates of the means of `[columns, seeds, clusters]` values; columns share their bootstrap draws."""
    _, seeds, clusters = values.shape
    low, high = cluster_intervals(values.mean(axis=1).T, random, level=level)
    found = []
    for column, ends in zip(values, zip(low, high, strict=True), strict=True):
        value, about = float(column.mean()), standard_errors(column)
        over_questions = Interval(float(ends[0]), float(ends[1]))
        interval = over_questions
        if seeds > 1:
            reach = t_quantile((1 + level) / 2, about.degrees_of_freedom) * about.total
            interval = Interval(value - reach, value + reach)
        found.append(Estimate(value, interval, over_questions, about, clusters, seeds))
    return found


def effects(values: Array, contrasts: Sequence[Contrast], random: np.random.Generator) -> list[Effect]:
    """Return the effect of every contrast, paired over clusters and seeds.

    P-values are Holm-corrected over the main effects, and separately over the interactions.

    Args:
        values: `[configurations, seeds, clusters]`, in the order of the contrasts' weights.
    """
    if not contrasts:
        return []
    differences = np.einsum("kc,csu->ksu", np.array([c.weights for c in contrasts]), values)
    found = estimates(differences, random)
    over_questions = sign_flip(differences.mean(axis=1).T, random)
    p_values = [_p(estimate, float(p)) for estimate, p in zip(found, over_questions, strict=True)]
    return corrected(
        Effect(contrast, estimate, float(of_questions), p, p, detectable_effect(estimate.standard_errors))
        for contrast, estimate, of_questions, p in zip(contrasts, found, over_questions, p_values, strict=True)
    )


def corrected(family: Iterable[Effect]) -> list[Effect]:
    """Return the same effects with `p_holm` over all their main effects, and separately over all interactions."""
    effects = list(family)
    adjusted = [0.0] * len(effects)
    for is_main in (True, False):
        positions = [number for number, effect in enumerate(effects) if (effect.contrast.order == 1) is is_main]
        for position, p in zip(positions, holm([effects[position].p for position in positions]), strict=True):
            adjusted[position] = p
    return [replace(effect, p_holm=p) for effect, p in zip(effects, adjusted, strict=True)]


def detectable_effect(about: StandardErrors, *, level: float = 0.95, power: float = 0.8) -> float:
    """Return the true effect whose test at `1 - level` is significant with probability `power`."""
    return (
        t_quantile((1 + level) / 2, about.degrees_of_freedom) + t_quantile(power, about.degrees_of_freedom)
    ) * about.total


def _p(estimate: Estimate, over_questions: float) -> float:
    if estimate.seeds == 1:
        return over_questions
    if estimate.standard_errors.total == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return 2 * t_cumulative(
        -abs(estimate.value) / estimate.standard_errors.total, estimate.standard_errors.degrees_of_freedom
    )
