"""Intervals, permutation tests and effects from values of independent units; arrays in, numbers out.

How a benchmark's answers become such values is in `measures`; which cells an effect compares is in `design`.

A *unit* is what was drawn independently: a picture with all its questions, a pair, a group. Its *value* is what it
contributes to a score: the score is the mean of the values over units.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from olivine.ablate.design import Contrast
from olivine.ablate.student import cumulative, quantile

Array = NDArray[np.float64]

RESAMPLES = 2000
FLIPS = 9999
#: At most so many random numbers are held at once.
_CHUNK = 4_000_000
#: Up to so many units every pattern of signs is tried, and the test is exact.
_EXACT = 13


@dataclass(frozen=True, slots=True)
class Interval:
    """Two ends, in the units of the score."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies in it, ends included."""
        return self.low <= value <= self.high


def generator(*content: bytes | str) -> np.random.Generator:
    """A random generator that follows from content alone: the same data give the same figures on every run."""
    digest = hashlib.sha256()
    for part in content:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return np.random.default_rng(int.from_bytes(digest.digest()[:16], "big"))


def ratio_values(sums: Array, counts: Array) -> Array:
    """Values whose mean is the ratio of totals, for units of different sizes: jackknife pseudo-values, re-centred.

    How the ratio moves when a unit is left out counts large units for what they are; a linear influence would make the
    interval too narrow where a few units hold most of the answers.

    Args:
        sums: `[units, ...]`, what a unit adds to the numerator (answers right).
        counts: `[units, ...]`, what it adds to the denominator (answers).

    Returns:
        `[units, ...]`.
    """
    if len(sums) < 2:
        return np.asarray(sums / counts, dtype=float)
    total, right = counts.sum(axis=0), sums.sum(axis=0)
    return pseudo_values(right / total, (right - sums) / (total - counts), np.full(len(sums), 1.0))


def pseudo_values(whole: float | Array, without: Array, sizes: Array) -> Array:
    """Values of units (or of groups of units) for any smooth score, from the score with each of them left out.

    Scaled so that the usual variance of their mean is the delete-a-group jackknife's for groups of unequal size (Busing
    et al. 1999, doi 10.1023/A:1008800423698), and centred so that their mean is the score itself.

    Args:
        whole: the score of all units.
        without: `[groups, ...]`, the score of all but one group.
        sizes: `[groups]`, units in each group.
    """
    groups = len(without)
    shares = (sizes.sum() / sizes).reshape(-1, *(1,) * (without.ndim - 1))
    moved = (shares - 1) * (whole - without) * np.sqrt((groups - 1) / (shares - 1))
    centred: Array = whole + moved - moved.mean(axis=0)
    return centred


def cluster_intervals(
    values: Array, random: np.random.Generator, *, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[Array, Array]:
    """Bootstrap intervals for means over units: whole units are drawn again, never single answers.

    The percentiles are widened so that the interval of normal data is Student's ("expanded percentile", Hesterberg
    2015, doi 10.1080/00031305.2015.1089789): plain percentiles are too narrow for few units.

    Args:
        values: `[units, columns]`; the columns share their draws, so that what is paired stays paired.

    Returns:
        Low and high ends, each `[columns]`. With a single unit nothing can be said: minus and plus infinity.
    """
    units = len(values)
    if units < 2:
        return np.full(values.shape[1], -np.inf), np.full(values.shape[1], np.inf)
    means = np.empty((resamples, values.shape[1]))
    share = np.full(units, 1 / units)
    step = max(1, _CHUNK // units)
    for start in range(0, resamples, step):
        draws = random.multinomial(units, share, size=min(step, resamples - start))
        means[start : start + len(draws)] = draws @ values / units
    widened = quantile((1 + level) / 2, units - 1) * math.sqrt(units / (units - 1))
    tail = 0.5 * math.erfc(widened / math.sqrt(2))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def sign_flip(values: Array, random: np.random.Generator, *, flips: int = FLIPS) -> Array:
    """Two-sided p-values of "the mean is 0" by changing the signs of whole units.

    Under the null a unit's paired difference is as likely up as down. Every pattern of signs is tried where there are
    few units; otherwise random ones, counting the one observed (Phipson & Smyth 2010, so that p is never 0).

    Args:
        values: `[units, columns]` of paired differences.

    Returns:
        `[columns]`.
    """
    units = len(values)
    observed = np.abs(values.sum(axis=0)) * (1 - 1e-9)  # equal sums may differ in their last bits
    if units <= _EXACT:
        patterns = np.array(list(np.ndindex(*(2,) * units)), dtype=float).reshape(-1, units) * 2 - 1
        share: Array = (np.abs(patterns @ values) >= observed).mean(axis=0)
        return share
    reached = np.zeros(values.shape[1])
    step = max(1, _CHUNK // units)
    for start in range(0, flips, step):
        signs = random.integers(0, 2, (min(step, flips - start), units), dtype=np.int8) * 2.0 - 1
        reached += (np.abs(signs @ values) >= observed).sum(axis=0)
    return (1 + reached) / (1 + flips)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the chance of any false alarm in the family stays at the level tested."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the uncertainty of an estimate comes from: standard errors, in the units of the score.

    `questions`: other questions, the same trained models. `seeds`: other trainings, the same questions (None with a
    single seed: then it is unknown, not zero). `total` and its degrees of freedom: both.
    """

    questions: float
    seeds: float | None
    total: float
    freedom: float


def spread(values: Array) -> Spread:
    """Variance components of the mean of `[seeds, units]` values, seeds and units crossed.

    Every seed is asked the same questions. The variance of the mean is that between units, plus that between seeds,
    less their interaction, which both hold; degrees of freedom after Satterthwaite.
    """
    seeds, units = values.shape
    by_unit = values.mean(axis=0)
    questions = by_unit.var(ddof=1) / units if units > 1 else math.inf
    if seeds == 1:
        return Spread(math.sqrt(questions), None, math.sqrt(questions), max(1, units - 1))
    by_seed = values.mean(axis=1)
    between = by_seed.var(ddof=1) / seeds
    if units == 1:
        return Spread(math.inf, math.sqrt(between), math.inf, 1)
    rest = values - by_unit - by_seed[:, None] + values.mean()
    both = (rest**2).sum() / ((seeds - 1) * (units - 1)) / (seeds * units)
    total = max(questions + between - both, questions, between)
    parts = questions**2 / (units - 1) + between**2 / (seeds - 1)
    freedom = total**2 / parts if parts > 0 else units - 1
    return Spread(math.sqrt(questions), math.sqrt(between), math.sqrt(total), max(1.0, freedom))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with all that is known of its uncertainty, in the units of the score.

    `over_questions` is the bootstrap interval with the trained models as they are; `interval` also covers other
    trainings if there was more than one seed, and is the same otherwise.
    """

    value: float
    interval: Interval
    over_questions: Interval
    spread: Spread
    units: int
    seeds: int


@dataclass(frozen=True, slots=True)
class Effect:
    """One contrast on one score.

    `p_questions` is the paired permutation test over units. `p` is what is decided by: with several seeds a t-test that
    counts seeds as drawn too, otherwise `p_questions`. `p_holm` is `p` corrected over the family. `detectable` is the
    smallest true effect that a study of this size would have called significant at 5 % four times out of five.
    """

    contrast: Contrast
    estimate: Estimate
    p_questions: float
    p: float
    p_holm: float
    detectable: float


def estimates(values: Array, random: np.random.Generator, *, level: float = 0.95) -> list[Estimate]:
    """Estimates of the means of `[columns, seeds, units]` values; columns share their draws of units."""
    _, seeds, units = values.shape
    low, high = cluster_intervals(values.mean(axis=1).T, random, level=level)
    found = []
    for column, ends in zip(values, zip(low, high, strict=True), strict=True):
        value, about = float(column.mean()), spread(column)
        over_questions = Interval(float(ends[0]), float(ends[1]))
        interval = over_questions
        if seeds > 1:
            reach = quantile((1 + level) / 2, about.freedom) * about.total
            interval = Interval(value - reach, value + reach)
        found.append(Estimate(value, interval, over_questions, about, units, seeds))
    return found


def effects(values: Array, contrasts: Sequence[Contrast], random: np.random.Generator) -> list[Effect]:
    """The effect of every contrast, paired over units and seeds, Holm-corrected over the main effects and apart over
    the interactions.

    Args:
        values: `[cells, seeds, units]`, in the order of the contrasts' weights.
    """
    if not contrasts:
        return []
    differences = np.einsum("kc,csu->ksu", np.array([c.weights for c in contrasts]), values)
    found = estimates(differences, random)
    over_questions = sign_flip(differences.mean(axis=1).T, random)
    p_values = [_p(estimate, float(p)) for estimate, p in zip(found, over_questions, strict=True)]
    return corrected(
        Effect(contrast, estimate, float(of_questions), p, p, detectable_effect(estimate.spread))
        for contrast, estimate, of_questions, p in zip(contrasts, found, over_questions, p_values, strict=True)
    )


def corrected(family: Iterable[Effect]) -> list[Effect]:
    """The same effects, `p_holm` made for all main effects among them together, and for all interactions together."""
    effects = list(family)
    adjusted = [0.0] * len(effects)
    for is_main in (True, False):
        places = [number for number, effect in enumerate(effects) if (effect.contrast.order == 1) is is_main]
        for place, p in zip(places, holm([effects[place].p for place in places]), strict=True):
            adjusted[place] = p
    return [replace(effect, p_holm=p) for effect, p in zip(effects, adjusted, strict=True)]


def detectable_effect(about: Spread, *, level: float = 0.95, power: float = 0.8) -> float:
    """The true effect whose test at `1 - level` comes out significant with probability `power`."""
    return (quantile((1 + level) / 2, about.freedom) + quantile(power, about.freedom)) * about.total


def _p(estimate: Estimate, over_questions: float) -> float:
    if estimate.seeds == 1:
        return over_questions
    if estimate.spread.total == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return 2 * cumulative(-abs(estimate.value) / estimate.spread.total, estimate.spread.freedom)
