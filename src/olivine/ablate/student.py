"""Student's t: its distribution function and quantiles, for any positive degrees of freedom.

Written here because scipy, 40 MB for one function, is otherwise not needed.
"""

import math
from functools import lru_cache

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


def cumulative(t: float, freedom: float) -> float:
    """The probability of a value below `t`.

    With t = sqrt(freedom) tan(angle) the density is a power of a cosine, which Gauss-Legendre integrates to 1e-10.
    """
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    if freedom > 1e6:
        return 0.5 * math.erfc(-t / math.sqrt(2))
    angle = math.atan2(abs(t), math.sqrt(freedom))
    # Beyond this angle the density is below 1e-18 of its peak; the nodes stay where it is not.
    angle = min(angle, 9.5 / math.sqrt(freedom)) if freedom > 36 else angle
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    angles = angle / 2 * (_NODES + 1)
    area = constant * angle / 2 * float(np.sum(_WEIGHTS * np.cos(angles) ** (freedom - 1)))
    return 0.5 + math.copysign(min(area, 0.5), t)


@lru_cache(maxsize=4096)
def quantile(probability: float, freedom: float) -> float:
    """The value below which lies `probability`, strictly between 0 and 1."""
    if probability < 0.5:
        return -quantile(1 - probability, freedom)
    high = 1.0
    while cumulative(high, freedom) < probability:
        high *= 2
    low = 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if cumulative(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
