"""Variance components: how much of an estimate's uncertainty comes from the questions, and how much from training."""

import math
from dataclasses import dataclass

from olivine.statistics.clusters import Array


@dataclass(frozen=True, slots=True)
class StandardErrors:
    """Where the uncertainty of an estimate comes from: standard errors, in the units of the score.

    `questions`: other questions, the same trained models. `seeds`: other training runs, the same questions (None with
    a single seed: then it is unknown, not zero). `total` and its `degrees_of_freedom` cover both. `clusters` and
    `runs` are how many of each there are.
    """

    questions: float
    seeds: float | None
    total: float
    degrees_of_freedom: float
    clusters: int
    runs: int


def standard_errors(values: Array) -> StandardErrors:
    """Return the variance components of the mean of `[seeds, clusters]` values, seeds and clusters crossed.

    Every seed answers the same questions. The variance of the mean is that between clusters, plus that between seeds,
    minus their interaction, which both contain; degrees of freedom after Satterthwaite.
    """
    seeds, clusters = values.shape
    by_cluster = values.mean(axis=0)
    questions = by_cluster.var(ddof=1) / clusters if clusters > 1 else math.inf
    if seeds == 1:
        alone = math.sqrt(questions)
        return StandardErrors(alone, None, alone, max(1, clusters - 1), clusters, seeds)
    by_seed = values.mean(axis=1)
    between = by_seed.var(ddof=1) / seeds
    if clusters == 1:
        return StandardErrors(math.inf, math.sqrt(between), math.inf, 1, clusters, seeds)
    rest = values - by_cluster - by_seed[:, None] + values.mean()
    both = (rest**2).sum() / ((seeds - 1) * (clusters - 1)) / (seeds * clusters)
    total = max(questions + between - both, questions, between)
    parts = questions**2 / (clusters - 1) + between**2 / (seeds - 1)
    free = total**2 / parts if parts > 0 else clusters - 1
    return StandardErrors(math.sqrt(questions), math.sqrt(between), math.sqrt(total), max(1.0, free), clusters, seeds)
