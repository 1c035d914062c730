"""Bootstrap intervals over clusters, and the quantiles of Student's t that widen them."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from olivine.statistics.clusters import Array

RESAMPLES = 2000
#: At most this many random numbers are in memory at once.
CHUNK = 4_000_000


@lru_cache(maxsize=4096)
def t_quantile(probability: float, degrees_of_freedom: float) -> float:
    """Return the value below which Student's t lies with `probability`, strictly between 0 and 1."""
    from scipy.special import stdtrit  # here, since importing it takes longer than everything else in this package

    return float(stdtrit(degrees_of_freedom, probability))


def t_cumulative(t: float, degrees_of_freedom: float) -> float:
    """Return the probability that Student's t is below `t`."""
    from scipy.special import stdtr

    return float(stdtr(degrees_of_freedom, t))


@dataclass(frozen=True, slots=True)
class Interval:
    """The two ends of an interval, in the units of the score."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Return whether `value` lies in the interval, ends included."""
        return self.low <= value <= self.high


def cluster_intervals(
    values: Array, random: np.random.Generator, *, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[Array, Array]:
    """Return bootstrap intervals for means over clusters: whole clusters are resampled, never single answers.

    The percentiles are widened so that the interval of normal data is Student's ("expanded percentile", Hesterberg
    2015, doi 10.1080/00031305.2015.1089789): plain percentiles are too narrow for few clusters.

    Args:
        values: `[clusters, columns]`; the columns share their draws, so that paired values stay paired.

    Returns:
        Low and high ends, each `[columns]`. With a single cluster they are unknown: minus and plus infinity.
    """
    clusters = len(values)
    if clusters < 2:
        return np.full(values.shape[1], -np.inf), np.full(values.shape[1], np.inf)
    means = np.empty((resamples, values.shape[1]))
    share = np.full(clusters, 1 / clusters)
    step = max(1, CHUNK // clusters)
    for start in range(0, resamples, step):
        draws = random.multinomial(clusters, share, size=min(step, resamples - start))
        means[start : start + len(draws)] = draws @ values / clusters
    widened = t_quantile((1 + level) / 2, clusters - 1) * math.sqrt(clusters / (clusters - 1))
    tail = 0.5 * math.erfc(widened / math.sqrt(2))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high
