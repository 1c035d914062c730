"""One figure over several benchmarks: the plain mean, the normalised mean, and Prismatic's z-scores, with intervals.

Scores of single benchmarks and their intervals come from `effects`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from olivine.statistics.effects import Estimate
from olivine.statistics.intervals import Interval, t_quantile

#: `mean`: of the scores as they are. `normalised`: of (score - chance) / (highest - chance), in percent. `z`: of
#: (score - mean of all models) / their standard deviation, as Karamcheti et al. do (2024, arXiv:2402.07865, 3.1).
AverageKind = Literal["mean", "normalised", "z"]


@dataclass(frozen=True, slots=True)
class Average:
    """One model's figure over several benchmarks, and how many entered it."""

    value: float
    interval: Interval
    benchmarks: int


def averages(
    scores: Mapping[str, Sequence[Estimate]],
    kind: AverageKind,
    scales: Mapping[str, tuple[float, float]] | None = None,
    by_seed: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> list[Average] | None:
    """Return every model's average over the benchmarks, with its interval.

    The questions of benchmarks are drawn independently, so each side of the interval is the root of the summed squares
    of their own sides. Training runs are the same for all benchmarks, so their part comes from each seed's own
    average. A z-score's mean and standard deviation over the models are taken as given.

    Args:
        scores: benchmark -> the scores of all models, in one order.
        kind: what is averaged.
        scales: benchmark -> (score of chance, or the lowest one; highest score), for `normalised`.
        by_seed: benchmark -> each model's scores by seed, in one order of seeds; None where there is one seed.

    Returns:
        One average a model; None where there is none: no benchmark, or z-scores of models that are all alike.
    """
    shifted = {name: _shift_and_scale(name, found, kind, scales or {}) for name, found in scores.items()}
    used = {name: moved for name, moved in shifted.items() if moved is not None}
    if not used:
        return None
    found = []
    for model in range(len(next(iter(scores.values())))):
        parts = [(scores[name][model], *moved) for name, moved in used.items()]
        of_seeds = [
            [(value - shift) / scale for value in by_seed[name][model]] if by_seed else []
            for name, (shift, scale) in used.items()
        ]
        found.append(_average(parts, _reach_of_seeds(of_seeds)))
    return found


def _reach_of_seeds(by_benchmark: Sequence[Sequence[float]], level: float = 0.95) -> float:
    runs = [sum(of_seed) / len(of_seed) for of_seed in zip(*by_benchmark, strict=True)]
    if len(runs) < 2:
        return 0.0
    error: float = statistics.stdev(runs) / math.sqrt(len(runs))
    return t_quantile((1 + level) / 2, len(runs) - 1) * error


def _average(parts: Sequence[tuple[Estimate, float, float]], of_seeds: float) -> Average:
    count = len(parts)
    value = sum((estimate.value - shift) / scale for estimate, shift, scale in parts) / count
    below = math.hypot(*((e.value - e.over_questions.low) / scale / count for e, _, scale in parts), of_seeds)
    above = math.hypot(*((e.over_questions.high - e.value) / scale / count for e, _, scale in parts), of_seeds)
    return Average(value, Interval(value - below, value + above), count)


def _shift_and_scale(
    name: str, found: Sequence[Estimate], kind: AverageKind, scales: Mapping[str, tuple[float, float]]
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
