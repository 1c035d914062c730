"""What a study of a given size can find: the detectable effect, power, and equivalence within a margin.

Standard errors come from `components`.
"""

import math

from olivine.statistics.components import StandardErrors
from olivine.statistics.intervals import t_cumulative, t_quantile


def detectable_effect(about: StandardErrors, *, level: float = 0.95, power: float = 0.8) -> float:
    """Return the true effect whose test at `1 - level` is significant with probability `power`.

    With one seed it is exact for the t-test (noncentral t). With several, the half-widths of both uncertainties are
    combined as `half_width` does.
    """
    if not math.isfinite(about.total):
        return math.inf
    if about.seeds is not None:
        return half_width(about, (1 + level) / 2) + half_width(about, power)
    from scipy.special import nctdtrinc

    free = about.degrees_of_freedom
    return float(nctdtrinc(free, 1 - power, t_quantile((1 + level) / 2, free))) * about.total


def power_of(effect: float, about: StandardErrors, *, level: float = 0.95) -> float:
    """Return the probability that a two-sided t-test at `1 - level` finds a true `effect`, over questions."""
    from scipy.special import nctdtr

    if about.questions == 0:
        return float(effect != 0)
    free, at = about.degrees_of_freedom, t_quantile((1 + level) / 2, about.degrees_of_freedom)
    shift = abs(effect) / about.questions
    return float(1 - nctdtr(free, shift, at) + nctdtr(free, shift, -at))


def equivalence(value: float, about: StandardErrors, margin: float) -> float:
    """Return the p-value of "the difference is `margin` or more, in either direction": two one-sided t-tests.

    A small one says that two are tied within the margin (Schuirmann 1987, doi 10.1007/BF01068419); a large p-value of
    the usual test says nothing of the kind.
    """
    if margin <= 0:
        raise ValueError(f"margin {margin}: expected more than 0, in the units of the score")
    if about.total == 0:
        return float(abs(value) >= margin)
    return t_cumulative((abs(value) - margin) / about.total, about.degrees_of_freedom)


def half_width(about: StandardErrors, probability: float) -> float:
    """Return the distance from an estimate to the `probability` quantile of both uncertainties together.

    Each variance keeps the degrees of freedom that it has, so that two seeds are paid for with Student's 12.7, and not
    with a quantile pooled with that of hundreds of clusters, which the variance between two seeds happens to be small
    enough for.
    """
    from_questions = t_quantile(probability, about.clusters - 1) * about.questions
    if about.seeds is None or about.runs < 2:
        return from_questions
    return math.hypot(from_questions, t_quantile(probability, about.runs - 1) * about.seeds)
