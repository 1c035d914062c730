"""Bounded means of clustered items: how correlated the items of a cluster are, effective sample sizes, and intervals.

Everything is vectorised over columns, so that simulations use the same code as reports. Which items make up a score or
an effect is decided in `scores`.

A cluster bootstrap or a Student interval fails where clusters are few or unequal, and where nearly every answer is
right: a sample without any error has no variance to estimate. Here the mean is treated as the proportion of an
*effective* number of independent answers (Korn & Graubard 1998, Survey Methodology 24, 193-201), with beta quantiles
(Jeffreys'; Brown, Cai & DasGupta 2001, doi 10.1214/ss/1009213286). The effective number follows from the intraclass
correlation, which a few errors hardly reveal: its estimate is shrunk towards a prior, and raised by a share of its own
uncertainty.
"""

import numpy as np

from olivine.statistics.clusters import Array

#: The prior correlation of a cluster's items: PRIOR / sqrt(size - 1), at most PRIOR_MOST; larger clusters are less
#: alike.
PRIOR, PRIOR_MOST = 1.2, 0.5
#: The prior counts as much as this many clusters that tell something about the correlation.
PRIOR_CLUSTERS = 2.0
#: The estimated correlation is raised by this many of its standard errors.
RAISED = 0.25
_TINY = 1e-12


def prior_correlation(counts: Array) -> Array:
    """Return the correlation assumed of a cluster's items before any is seen: `[columns]` for `[clusters, columns]`."""
    size = (counts**2).sum(axis=0) / counts.sum(axis=0)
    correlation: Array = np.minimum(PRIOR_MOST, PRIOR / np.sqrt(np.maximum(size - 1, 0.5)))
    return correlation


def correlation(sums: Array, squares: Array, counts: Array) -> Array:
    """Return the intraclass correlation of items, by analysis of variance, shrunk and raised as the module says.

    Args:
        sums: `[clusters, columns]`, the sum of a cluster's items, each from 0 to 1 (or from -1 to 1 for differences).
        squares: the sum of their squares.
        counts: how many there are.
    """
    clusters, total = len(sums), counts.sum(axis=0)
    within = (squares - sums**2 / counts).sum(axis=0) / np.maximum(total - clusters, 1)
    mean = sums.sum(axis=0) / total
    between = (counts * (sums / counts - mean) ** 2).sum(axis=0) / (clusters - 1)
    usual_size = (total - (counts**2).sum(axis=0) / total) / (clusters - 1)
    component = (between - within) / usual_size
    whole, prior = component + within, prior_correlation(counts)
    found = np.clip(np.where(whole > _TINY, component / np.where(whole > _TINY, whole, 1), prior), 0, 1)
    # A cluster in which nothing happened, or one of a single item, says nothing about the correlation.
    telling = np.minimum(_telling(squares, counts), _telling(counts - sums, counts))
    shrunk = (found * telling + prior * PRIOR_CLUSTERS) / (telling + PRIOR_CLUSTERS)
    raised: Array = shrunk + RAISED * np.sqrt(shrunk * (1 - shrunk) / (telling + PRIOR_CLUSTERS))
    return np.clip(raised, 0, 1)


def _telling(events: Array, counts: Array) -> Array:
    telling: Array = ((events > _TINY) * (1 - 1 / counts)).sum(axis=0)
    return telling


def variance_share(correlation: Array, counts: Array) -> Array:
    """Return the variance of the mean of all items as a share of that of one: one over the effective sample size."""
    weights = counts / counts.sum(axis=0)
    share: Array = (weights**2 * ((1 - correlation) / counts + correlation)).sum(axis=0)
    return share


def effective_size(counts: Array) -> float:
    """Return the effective sample size of `[clusters]` under the prior correlation, before any answer is seen."""
    column = np.asarray(counts, dtype=float)[:, None]
    return float(1 / variance_share(prior_correlation(column), column)[0])


def variance(sums: Array, squares: Array, counts: Array) -> Array:
    """Return the variance of the mean of all items; `[columns]`."""
    total = counts.sum(axis=0)
    spread = np.maximum(squares.sum(axis=0) / total - (sums.sum(axis=0) / total) ** 2, 0)
    found: Array = spread * variance_share(correlation(sums, squares, counts), counts)
    return found


def mean_interval(sums: Array, squares: Array, counts: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Return the interval of the mean of clustered items from 0 to 1: within [0, 1], and never of zero width.

    Args:
        sums: `[clusters, columns]`, the sum of a cluster's items.
        squares: the sum of their squares (equal to `sums` where items are 0 or 1).
        counts: how many items a cluster has, 1 or more; two clusters at least.
    """
    counts = np.broadcast_to(counts, sums.shape)
    total = counts.sum(axis=0)
    mean = sums.sum(axis=0) / total
    # Items between 0 and 1 vary less than a coin of the same mean; one more coin keeps the variance above zero.
    spread, coin = np.maximum(squares.sum(axis=0) - total * mean**2, 0), total * mean * (1 - mean)
    size = (coin + 0.25) / (spread + 0.25) / variance_share(correlation(sums, squares, counts), counts)
    return beta_interval(mean, size, level)


def beta_interval(mean: Array, size: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Return Jeffreys' interval of a proportion `mean` of `size` independent answers; exact where it is 0 or 1."""
    from scipy.special import betaincinv  # here, since importing it takes longer than everything else in this package

    mean = np.clip(mean, 0, 1)
    tail, right, wrong = (1 - level) / 2, mean * size, (1 - mean) * size
    none, every = right < 1e-9, wrong < 1e-9
    low = betaincinv(right + np.where(every, 0, 0.5), wrong + np.where(every, 1, 0.5), tail)
    high = betaincinv(right + np.where(none, 1, 0.5), wrong + np.where(none, 0, 0.5), 1 - tail)
    # Jeffreys' ends can lie on the wrong side of a mean very close to 0 or 1.
    return np.where(none, 0.0, np.minimum(low, mean)), np.where(every, 1.0, np.maximum(high, mean))


def difference_interval(
    up: tuple[Array, Array], down: tuple[Array, Array], counts: Array, level: float = 0.95
) -> tuple[Array, Array]:
    """Return the interval of a mean difference of clustered items, within [-1, 1] and never of zero width.

    What went up and what went down are each a mean from 0 to 1 with an interval of their own; the two are combined as
    Zou & Donner do (2008, doi 10.1002/sim.3095: the method of variance estimates recovery), with their correlation.

    Args:
        up: sums and squares, `[clusters, columns]` each, of the positive differences (0 where an item has none).
        down: those of the negative ones, without their sign.
        counts: how many items a cluster has.
    """
    counts = np.broadcast_to(counts, up[0].shape)
    (up_low, up_high), (down_low, down_high) = (mean_interval(*part, counts, level) for part in (up, down))
    won, lost = (part[0].sum(axis=0) / counts.sum(axis=0) for part in (up, down))
    of_up, of_down = variance(*up, counts), variance(*down, counts)
    of_both = variance(up[0] - down[0], up[1] + down[1], counts)
    scale = 2 * np.sqrt(of_up * of_down)
    together = np.clip(np.where(scale > 0, (of_up + of_down - of_both) / np.where(scale > 0, scale, 1), 0), -1, 0)
    low = won - lost - _joined(won - up_low, down_high - lost, together)
    high = won - lost + _joined(up_high - won, lost - down_low, together)
    return np.maximum(low, -1), np.minimum(high, 1)


def _joined(one: Array, other: Array, together: Array) -> Array:
    joined: Array = np.sqrt(np.maximum(one**2 + other**2 - 2 * together * one * other, 0))
    return joined
