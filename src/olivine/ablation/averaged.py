"""One figure over all benchmarks of a study for each configuration: the mean, the share of the range, the z-score.

The arithmetic is in `statistics.averages`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from olivine.ablation.outcomes import Outcome
from olivine.ablation.results import Results
from olivine.statistics import Average, AverageKind, Configuration, averages

_PERCENT = (0.0, 100.0)


@dataclass(frozen=True, slots=True)
class AverageColumn:
    """One kind of average, for every configuration that has all its benchmarks."""

    label: str
    benchmarks: int
    values: Mapping[Configuration, Average]
    #: Digits behind the point.
    digits: int = 1


def average_columns(results: Results) -> list[AverageColumn]:
    """Return the averages over the first metrics of the benchmarks; none with fewer than two of them.

    The mean takes those from 0 to 100. Where others have another range, the mean share of the range takes them all; the
    z-score (as in Prismatic) does so too.
    """
    bounded = [outcome for outcome in results.headlines if outcome.measure.range[1] is not None]
    percent = [outcome for outcome in bounded if outcome.measure.range == _PERCENT]
    found = [_column("mean", "mean", percent)]
    if len(bounded) > len(percent):
        found.append(_column("mean percentage of the range", "normalised", bounded))
    found.append(_column("mean z-score", "z", results.headlines, digits=2))
    return [column for column in found if column is not None]


def _column(label: str, kind: AverageKind, outcomes: list[Outcome], digits: int = 1) -> AverageColumn | None:
    if len(outcomes) < 2:
        return None
    having = [c for c in outcomes[0].scores if all(c in outcome.scores for outcome in outcomes)]
    if not having:
        return None
    scores = {outcome.benchmark: [outcome.scores[c] for c in having] for outcome in outcomes}
    ranges = {o.benchmark: (o.measure.range[0], o.measure.range[1] or 0.0) for o in outcomes}
    # Seeds that a configuration has on every benchmark: of others there is no average.
    shared = [[s for s in outcomes[0].by_seed[c] if all(s in o.by_seed[c] for o in outcomes)] for c in having]
    by_seed = {
        outcome.benchmark: [[outcome.by_seed[c][s] for s in seeds] for c, seeds in zip(having, shared, strict=True)]
        for outcome in outcomes
    }
    found = averages(scores, kind, ranges if kind == "normalised" else None, by_seed)
    return AverageColumn(label, len(outcomes), dict(zip(having, found, strict=True)), digits) if found else None
