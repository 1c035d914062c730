"""Permutation tests over clusters, and the correction for testing several effects."""

from collections.abc import Sequence

import numpy as np

from olivine.statistics.clusters import Array
from olivine.statistics.intervals import CHUNK

FLIPS = 9999
#: Up to this many clusters every sign pattern is tried, and the test is exact.
_EXACT = 13


def sign_flip(values: Array, random: np.random.Generator, *, flips: int = FLIPS) -> Array:
    """Return two-sided p-values of "the mean is 0" by flipping the signs of whole clusters.

    Under the null hypothesis a cluster's paired difference is equally likely to be positive or negative. With few
    clusters every sign pattern is tried; otherwise random ones, counting the observed one (Phipson & Smyth 2010, so
    that p is never 0).

    Args:
        values: `[clusters, columns]` of paired differences.

    Returns:
        `[columns]`.
    """
    clusters = len(values)
    observed = np.abs(values.sum(axis=0)) * (1 - 1e-9)  # equal sums may differ in their last bits
    if clusters <= _EXACT:
        patterns = np.array(list(np.ndindex(*(2,) * clusters)), dtype=float).reshape(-1, clusters) * 2 - 1
        share: Array = (np.abs(patterns @ values) >= observed).mean(axis=0)
        return share
    reached = np.zeros(values.shape[1])
    step = max(1, CHUNK // clusters)
    for start in range(0, flips, step):
        signs = random.integers(0, 2, (min(step, flips - start), clusters), dtype=np.int8) * 2.0 - 1
        reached += (np.abs(signs @ values) >= observed).sum(axis=0)
    return (1 + reached) / (1 + flips)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjustment: the chance of any false positive in the family stays at the level tested."""
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted
