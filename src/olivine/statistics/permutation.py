"""Permutation tests over clusters, and the correction for testing several effects."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from olivine.statistics.clusters import Array

FLIPS = 9999
#: Up to this many clusters that differ every sign pattern is tried, and the test is exact.
_EXACT = 13
#: At most this many random numbers are in memory at once.
_CHUNK = 4_000_000


def sign_flip(contributions: Array, random: np.random.Generator, *, flips: int = FLIPS) -> tuple[Array, Array]:
    """Return two-sided p-values of "the difference is 0" by flipping the signs of whole clusters, and their mid-p.

    Where the null hypothesis is that a cluster's answers could as well have been the other configuration's, what the
    cluster adds to the difference is equally likely to have either sign: the test is exact whatever the sizes of
    clusters. Where few clusters differ, many patterns tie with the observed one and the test is conservative; mid-p
    counts ties by half (Lancaster 1961, doi 10.1080/01621459.1961.10482105), so that it is less conservative, and no
    longer guaranteed.

    Clusters without a difference are skipped. Where few differ every sign pattern is tried; otherwise random ones,
    counting the observed one (Phipson & Smyth 2010, so that p is never 0).

    Args:
        contributions: `[clusters, columns]`, what a cluster adds to each difference.

    Returns:
        p-values and mid-p-values, `[columns]` each.
    """
    found = np.ones((2, contributions.shape[1]))
    exact = np.count_nonzero(contributions, axis=0) <= _EXACT
    for column in np.flatnonzero(exact):
        found[:, column] = _exact(contributions[contributions[:, column] != 0, column])
    if not exact.all():
        found[:, ~exact] = _sampled(contributions[:, ~exact], random, flips)
    return found[0], found[1]


def _exact(values: Array) -> tuple[float, float]:
    if not len(values):
        return 1.0, 1.0
    sums, observed = np.abs(_patterns(len(values)) @ values), abs(float(values.sum()))
    slack = 1e-9 * float(np.abs(values).sum())  # equal sums may differ in their last bits
    reached, beyond = float((sums >= observed - slack).mean()), float((sums > observed + slack).mean())
    return reached, (reached + beyond) / 2


@lru_cache(maxsize=_EXACT)
def _patterns(clusters: int) -> Array:
    """Return every pattern of signs with the first one positive: the others mirror them, with the same absolute sum."""
    numbers = np.arange(2 ** (clusters - 1))[:, None]
    signs: Array = 1.0 - 2.0 * (numbers >> np.arange(clusters) & 1).astype(np.float64)
    return signs


def _sampled(values: Array, random: np.random.Generator, flips: int) -> Array:
    clusters, columns = values.shape
    observed, slack = np.abs(values.sum(axis=0)), 1e-9 * np.abs(values).sum(axis=0)
    reached, beyond = np.zeros(columns), np.zeros(columns)
    step = max(1, _CHUNK // clusters)
    for start in range(0, flips, step):
        signs = random.integers(0, 2, (min(step, flips - start), clusters), dtype=np.int8) * 2.0 - 1
        sums = np.abs(signs @ values)
        reached += (sums >= observed - slack).sum(axis=0)
        beyond += (sums > observed + slack).sum(axis=0)
    return np.array([(1 + reached) / (1 + flips), (1 + (reached + beyond) / 2) / (1 + flips)])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjustment: the chance of any false positive in the family stays at the level tested."""
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted
