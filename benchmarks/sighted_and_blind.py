"""A model's accuracy with and without images, and the interval of the difference: what scripts of trainings share."""

from pathlib import Path
from typing import Any

import numpy as np

import olivine
from olivine.files import read_json_lines
from olivine.statistics import cluster_intervals, ratio_values


def sighted_and_blind(checkpoint: Path, benchmark: str, data: Path, answers: Path) -> dict[str, Any]:
    """Answer a benchmark twice, keeping answers in `answers`; return means and 95 % intervals, in percent.

    The difference is paired by question; whole clusters (images) are resampled.
    """
    model = None
    correct: dict[str, dict[str, float]] = {}
    cluster: dict[str, str] = {}
    for name, control in (("sighted", None), ("blind", "blind")):
        folder = answers / name
        if not (folder / "scores.json").is_file():
            model = model or olivine.load(checkpoint)
            olivine.evaluate(model, benchmark, data, output=folder, control=control)
        items = read_json_lines(folder / "items.jsonl")
        correct[name] = {row["question_id"]: row["correct"] for row in items}
        cluster |= {row["question_id"]: row["cluster"] for row in items}
    names = sorted(set(cluster.values()))
    position = {name: number for number, name in enumerate(names)}
    sums, counts = np.zeros((len(names), 3)), np.zeros((len(names), 3))
    for key, of in cluster.items():
        sighted, blind = correct["sighted"][key], correct["blind"][key]
        sums[position[of]] += (sighted, blind, sighted - blind)
        counts[position[of]] += 1
    values = 100 * ratio_values(sums, counts)
    low, high = cluster_intervals(values, np.random.default_rng(0))
    found: dict[str, Any] = {"questions": len(cluster), "clusters": len(names)}
    for number, name in enumerate(("sighted", "blind", "difference")):
        ends = {"low": round(float(low[number]), 2), "high": round(float(high[number]), 2)}
        found[name] = {"mean": round(float(values[:, number].mean()), 2), **ends}
    return found
