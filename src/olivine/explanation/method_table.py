"""The table of methods: means with clustered intervals, and paired differences from the first method.

The figures come from `over_benchmark`; a cluster is an image with its questions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from olivine.statistics import Array, ClusteredScores, Estimate, estimates, generator, holm, ratio_values, sign_flip

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of the table.

    Attributes:
        name: its key in files.
        label: its heading.
        about: what it is, in one line.
        value: a method's figure for one question; None where there is none.
        compared: whether methods are compared by it.
    """

    name: str
    label: str
    about: str
    value: Callable[[Row, str], float | None]
    compared: bool = True


def _deletion(row: Row, method: str) -> float | None:
    return 100 * (row["random_orders"]["deletion"] - row["methods"][method]["deletion"])


def _insertion(row: Row, method: str) -> float | None:
    return 100 * (row["methods"][method]["insertion"] - row["random_orders"]["insertion"])


def _worse(row: Row, method: str) -> float | None:
    return 100 * float(row["methods"][method]["deletion"] > row["random_orders"]["deletion"])


def _percent(key: str) -> Callable[[Row, str], float | None]:
    def value(row: Row, method: str) -> float | None:
        found = row["methods"][method].get(key)
        return None if found is None else 100 * found

    return value


def _randomised(row: Row, method: str) -> float | None:
    found: float | None = row["methods"][method].get("randomised")
    return found


MEASURES: tuple[Measure, ...] = (
    Measure(
        "deletion", "deletion", "area under random orders' deletion curves minus the method's, in points", _deletion
    ),
    Measure(
        "insertion", "insertion", "area under the method's insertion curve minus random orders', in points", _insertion
    ),
    Measure(
        "pointing", "pointing %", "how often the highest token is on what the question names", _percent("pointing")
    ),
    Measure(
        "mass", "mass %", "share of the positive scores inside the boxes of what the question names", _percent("mass")
    ),
    Measure(
        "worse", "worse %", "how often deletion in the method's order is slower than in random orders", _worse, False
    ),
    Measure("randomised", "rank corr.", "rank correlation with the map of random weights", _randomised, False),
)

#: Groups of questions by name; the first has all.
GROUPS: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,  # noqa: ARG005
    "right": lambda row: row["correct"] == 1,
    "wrong": lambda row: row["correct"] is not None and row["correct"] < 1,
    "one object": lambda row: row["objects"] == 1,
    "two objects": lambda row: row["objects"] == 2,
    "decided by the image": lambda row: row["decided_by_image"],
}


def method_table(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the table as plain values: for each group, the probabilities and each method's measures.

    A measure has `value`, `low` and `high` (95 %), and, for all methods but the first, `difference` from it: positive
    where the first is better, with its interval and `p_holm`, corrected over the other methods.

    Args:
        rows: the questions' figures; those with `skipped` are counted only.
    """
    measured = [row for row in rows if "skipped" not in row]
    methods = list(measured[0]["methods"]) if measured else []
    groups = {name: [row for row in measured if selects(row)] for name, selects in GROUPS.items()}
    return {
        "methods": methods,
        "skipped": len(rows) - len(measured),
        "measures": {measure.name: measure.about for measure in MEASURES},
        "groups": {name: _group(of_group, methods) for name, of_group in groups.items() if of_group},
    }


def _group(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, Any]:
    table: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for measure in MEASURES:
        values = [[measure.value(row, method) for method in methods] for row in rows]
        known = [number for number, of_row in enumerate(values) if None not in of_row]
        if not known:
            continue
        figures = np.array([values[number] for number in known], dtype=float)
        of_clusters = cluster_values([rows[number]["cluster"] for number in known], figures)
        for method, estimate in zip(methods, _estimated(of_clusters), strict=True):
            table[method][measure.name] = _plain(estimate)
        if measure.compared and len(methods) > 1:
            for method, difference in _differences(methods, figures, rows, known, measure.name).items():
                table[method][measure.name]["difference"] = difference
    seconds = {method: float(np.mean([row["methods"][method]["seconds"] for row in rows])) for method in methods}
    names = ("with_image", "blind", "other_image")
    return {
        "questions": len(rows),
        "images": len({row["cluster"] for row in rows}),
        "probability": {name: float(np.mean([row["probability"][name] for row in rows])) for name in names},
        "random_orders": {
            name: float(np.mean([row["random_orders"][name] for row in rows])) for name in ("deletion", "insertion")
        },
        "methods": {method: {**table[method], "seconds": seconds[method]} for method in methods},
    }


def _differences(
    methods: Sequence[str], figures: Array, rows: Sequence[Row], known: Sequence[int], name: str
) -> dict[str, dict[str, float]]:
    """Return the first method's lead over each other, paired over questions."""
    leads = figures[:, :1] - figures[:, 1:]
    of_clusters = cluster_values([rows[number]["cluster"] for number in known], leads)
    p_values = sign_flip(of_clusters / len(of_clusters), generator("paired methods", name))[0]
    found = zip(methods[1:], _estimated(of_clusters), holm([float(p) for p in p_values]), strict=True)
    return {method: {**_plain(estimate), "p_holm": p} for method, estimate, p in found}


def cluster_values(clusters: Sequence[str], figures: Array) -> Array:
    """Return values of clusters whose mean is the mean over questions, `[clusters, columns]`."""
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    sums, counts = np.zeros((len(names), figures.shape[1])), np.zeros((len(names), 1))
    for cluster, of_question in zip(clusters, figures, strict=True):
        sums[names[cluster]] += of_question
        counts[names[cluster]] += 1
    return ratio_values(sums, np.broadcast_to(counts, sums.shape).copy())


def _estimated(of_clusters: Array) -> list[Estimate]:
    return estimates(ClusteredScores.of_values(of_clusters.T[:, None, :], (-np.inf, None)))


def _plain(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.interval.low, "high": estimate.interval.high}
