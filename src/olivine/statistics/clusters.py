"""Values of independent clusters: a cluster is what was sampled independently, such as an image with its questions.

A cluster's *value* is what it contributes to a score: the score is the mean of the values over clusters.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def ratio_values(sums: Array, counts: Array) -> Array:
    """Return values whose mean is the ratio of totals, for clusters of different sizes.

    They are re-centred jackknife pseudo-values. The change of the ratio when a cluster is omitted gives large clusters
    their full influence; a linear influence would make the interval too narrow where a few clusters hold most of the
    answers.

    Args:
        sums: `[clusters, ...]`, what a cluster adds to the numerator (correct answers).
        counts: `[clusters, ...]`, what it adds to the denominator (answers).

    Returns:
        `[clusters, ...]`.
    """
    if len(sums) < 2:
        return np.asarray(sums / counts, dtype=float)
    total, right = counts.sum(axis=0), sums.sum(axis=0)
    return pseudo_values(right / total, (right - sums) / (total - counts), np.full(len(sums), 1.0))


def pseudo_values(whole: float | Array, without: Array, sizes: Array) -> Array:
    """Return values of clusters (or groups of clusters) for any smooth score, from the score with each one omitted.

    Scaled so that the usual variance of their mean is the delete-a-group jackknife's for groups of unequal size (Busing
    et al. 1999, doi 10.1023/A:1008800423698), and centred so that their mean is the score itself.

    Args:
        whole: the score of all clusters.
        without: `[groups, ...]`, the score with one group omitted.
        sizes: `[groups]`, the clusters in each group.
    """
    groups = len(without)
    shares = (sizes.sum() / sizes).reshape(-1, *(1,) * (without.ndim - 1))
    moved = (shares - 1) * (whole - without) * np.sqrt((groups - 1) / (shares - 1))
    centred: Array = whole + moved - moved.mean(axis=0)
    return centred
