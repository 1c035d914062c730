"""One figure over several benchmarks: the plain mean, the normalised mean, and Prismatic's z-scores, with intervals.

Scores of single benchmarks and their intervals come from `effects`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from olivine.statistics.effects import Estimate
from olivine.statistics.intervals import Interval

#: `mean`: of the scores as they are. `normalised`: of (score - chance) / (highest - chance), in percent. `z`: of
#: (score - mean of all models) / their standard deviation, as Karamcheti et al. do (2024, arXiv:2402.07865, 3.1).
Kind = Literal["mean", "normalised", "z"]


@dataclass(frozen=True, slots=True)
class Average:
    """One model's figure over several benchmarks, and how many entered it."""

    value: float
    interval: Interval
    benchmarks: int


def averages(
    scores: Mapping[str, Sequence[Estimate]],
    kind: Kind,
    scales: Mapping[str, tuple[float, float]] | None = None,
) -> list[Average] | None:
    """Return every model's average over the benchmarks, with its interval.

    Benchmarks are sampled independently, so each side of the interval is the root of the summed squares of their own
    sides. A z-score's mean and standard deviation over the models are taken as given: its interval says how far the
    model's own scores might lie elsewhere.

    Args:
        scores: benchmark -> the scores of all models, in one order.
        kind: what is averaged.
        scales: benchmark -> (score of chance, highest score), for `normalised`.

    Returns:
        One average a model; None where there is none: no benchmark, or z-scores of fewer than two models or of models
        that are all alike.
    """
    shifted = {name: _shift_and_scale(name, found, kind, scales or {}) for name, found in scores.items()}
    used = {name: moved for name, moved in shifted.items() if moved is not None}
    if not used:
        return None
    models = len(next(iter(scores.values())))
    return [_average([(scores[name][model], *moved) for name, moved in used.items()]) for model in range(models)]


def _average(parts: Sequence[tuple[Estimate, float, float]]) -> Average:
    count = len(parts)
    value = sum((estimate.value - shift) / scale for estimate, shift, scale in parts) / count
    below = math.hypot(*((e.value - e.interval.low) / scale for e, _, scale in parts)) / count
    above = math.hypot(*((e.interval.high - e.value) / scale for e, _, scale in parts)) / count
    return Average(value, Interval(value - below, value + above), count)


def _shift_and_scale(
    name: str, found: Sequence[Estimate], kind: Kind, scales: Mapping[str, tuple[float, float]]
) -> tuple[float, float] | None:
    if kind == "mean":
        return 0.0, 1.0
    if kind == "normalised":
        chance, highest = scales[name]
        if highest <= chance:
            raise ValueError(f"{name}: the highest score {highest} is not above chance {chance}")
        return chance, (highest - chance) / 100
    values = [estimate.value for estimate in found]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return (mean, deviation) if deviation > 0 else None
