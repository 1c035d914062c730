"""What an interval is, and Student's t. How intervals are found is in `scores` and `correlated`."""

from dataclasses import dataclass
from functools import lru_cache


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

    def within(self, margin: float) -> bool:
        """Return whether the whole interval lies between minus and plus `margin`."""
        return -margin <= self.low and self.high <= margin
