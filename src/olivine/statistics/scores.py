"""The scores of several configurations on the same questions, as intervals and tests need them.

How a benchmark's answers become items, values and contributions is decided elsewhere.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from olivine.statistics.clusters import Array, ratio_values
from olivine.statistics.correlated import beta_interval, difference_interval, effective_size, mean_interval
from olivine.statistics.intervals import Interval, t_quantile


@dataclass(frozen=True, slots=True)
class ClusteredScores:
    """One metric of several configurations and seeds on the same questions.

    Attributes:
        values: `[configurations, seeds, clusters]`; their mean over clusters is the score, and their variance
            the jackknife's.
        contributions: the same shape; what a cluster adds to the score, so that their sum is the score.
        sizes: `[clusters]`, the questions of a cluster.
        limits: the lowest and highest possible score; None where there is no bound.
        items: `[configurations, seeds, questions]` for a metric that is the plain mean of its items, else None.
        cluster_of_item: `[questions]`, the position of each one's cluster.
    """

    values: Array
    contributions: Array
    sizes: Array
    limits: tuple[float, float | None] = (0.0, 100.0)
    items: Array | None = None
    cluster_of_item: NDArray[np.int64] | None = None

    @classmethod
    def of_items(
        cls, items: Array, cluster_of_item: NDArray[np.int64], limits: tuple[float, float] = (0.0, 100.0)
    ) -> "ClusteredScores":
        """Return the scores of plain means of `[configurations, seeds, questions]`, each item within `limits`."""
        sums = _by_cluster(items, cluster_of_item)
        sizes = np.bincount(cluster_of_item).astype(float)
        every = np.broadcast_to(sizes, sums.shape)
        values = np.moveaxis(ratio_values(np.moveaxis(sums, -1, 0), np.moveaxis(every, -1, 0)), 0, -1)
        return cls(values, sums / sizes.sum(), sizes, limits, items, cluster_of_item)

    @classmethod
    def of_values(cls, values: Array, limits: tuple[float, float | None] = (0.0, None)) -> "ClusteredScores":
        """Return the scores of `[configurations, seeds, clusters]` values of clusters that count alike."""
        clusters = values.shape[-1]
        return cls(values, values / clusters, np.ones(clusters), limits)

    def __getitem__(self, selected: slice | list[int]) -> "ClusteredScores":
        """Return the selected configurations."""
        items = None if self.items is None else self.items[selected]
        return ClusteredScores(
            self.values[selected], self.contributions[selected], self.sizes, self.limits, items, self.cluster_of_item
        )

    @property
    def span(self) -> float | None:
        """The highest minus the lowest possible score."""
        low, high = self.limits
        return None if high is None else high - low

    def interval(self, configuration: int, level: float = 0.95) -> Interval:
        """Return a score's interval over questions, within its limits and never of zero width.

        With a single cluster it is unknown: from minus to plus infinity.
        """
        clusters = len(self.sizes)
        if clusters < 2:
            return Interval(-np.inf, np.inf)
        low, span = self.limits[0], self.span
        if self.items is not None and self.cluster_of_item is not None and span:
            share = (self.items[configuration].mean(axis=0) - low) / span
            ends = mean_interval(*_moments(share, self.cluster_of_item), self.sizes[:, None], level)
            return Interval(low + span * float(ends[0][0]), low + span * float(ends[1][0]))
        values = self.values[configuration].mean(axis=0)
        return self._within(values, level, low, span) if span else self._of_values(values, level, self.limits)

    def difference(self, weights: Array, level: float = 0.95) -> Interval:
        """Return the interval over questions of a weighted sum of the scores, with weights that sum to zero.

        Questions, clusters and seeds are paired. Identical answers have a difference of exactly 0, and an interval that
        still has a width: other questions might have told them apart.
        """
        clusters = len(self.sizes)
        if clusters < 2:
            return Interval(-np.inf, np.inf)
        span = self.span
        reach = None if span is None else span * float(np.maximum(weights, 0).sum())
        if self.items is not None and self.cluster_of_item is not None and reach:
            changes = np.einsum("c,csi->i", weights, self.items) / self.items.shape[1] / reach
            changes[np.abs(changes) < 1e-12] = 0
            parts = [_moments(np.maximum(part, 0), self.cluster_of_item) for part in (changes, -changes)]
            ends = difference_interval(parts[0], parts[1], self.sizes[:, None], level)
            return Interval(reach * float(ends[0][0]), reach * float(ends[1][0]))
        values = np.einsum("c,csu->u", weights, self.values) / self.values.shape[1]
        return self._of_values(values, level, (-np.inf if reach is None else -reach, reach))

    def _within(self, values: Array, level: float, low: float, span: float) -> Interval:
        """Return the interval of a bounded score that is no plain mean of items, as if it were a proportion.

        Its effective number of answers is the one that gives the jackknife's variance, at most all of them.
        """
        share = np.array([(float(values.mean()) - low) / span])
        variance, coin = self._reach(values, 0.95) ** 2 / 1.96**2 / span**2, float(share[0] * (1 - share[0]))
        size = effective_size(self.sizes) if variance == 0 or coin <= 0 else min(coin / variance, self.sizes.sum())
        ends = beta_interval(share, np.array([size]), level)
        return Interval(low + span * float(ends[0][0]), low + span * float(ends[1][0]))

    def _reach(self, values: Array, level: float) -> float:
        """Return the half-width of Student's interval; few or unequal clusters have fewer degrees of freedom."""
        worth = float(self.sizes.sum() ** 2 / (self.sizes**2).sum())
        return t_quantile((1 + level) / 2, max(worth - 1, 1.0)) * float(values.std(ddof=1)) / math.sqrt(len(values))

    def _of_values(self, values: Array, level: float, limits: tuple[float, float | None]) -> Interval:
        """Return Student's interval over clusters, within limits.

        Between limits it is at least as wide as that of a proportion without any error among as many effective answers.
        """
        value, reach = float(values.mean()), self._reach(values, level)
        low, high = limits[0], np.inf if limits[1] is None else limits[1]
        if np.isfinite(low) and np.isfinite(high):
            reach = max(reach, (high - low) * (1 - ((1 - level) / 2) ** (1 / effective_size(self.sizes))))
        return Interval(max(low, value - reach), min(high, value + reach))


def _by_cluster(items: Array, cluster_of_item: NDArray[np.int64]) -> Array:
    flat = items.reshape(-1, items.shape[-1])
    sums = np.array([np.bincount(cluster_of_item, weights=row) for row in flat])
    return sums.reshape(*items.shape[:-1], -1)


def _moments(items: Array, cluster_of_item: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the sums and the sums of squares of `[questions]`, each `[clusters, 1]`."""
    return _by_cluster(items, cluster_of_item)[:, None], _by_cluster(items**2, cluster_of_item)[:, None]
