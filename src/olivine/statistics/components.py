"""Variance components: how much of an estimate's uncertainty is other questions, and how much other trainings."""

import math
from dataclasses import dataclass

from olivine.statistics.clusters import Array


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
