"""How a difference in accuracy between two models divides into tower, connector and what comes behind, with intervals.

The answers come from `stitching`. Both orders are taken: the second model's modules in front of the first's language
model, and the first's in front of the second's; where they disagree, a module's part depends on what it works with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from olivine.explanation.method_table import cluster_values
from olivine.statistics import Array, ClusteredScores, estimates

#: The parts of a difference, from the image on; they sum to it.
PARTS = ("linear map", "tower", "connector", "behind the connector")
#: What answers in one order, from the host alone to the source alone.
ROUTE = ("own", "own_tower", "tower", "connector", "other")
#: What each part compares.
MEANING = {
    "linear map": "the host with its own tower through a linear map, less the host alone",
    "tower": "the other's tower less the host's own, both through linear maps into the host's image tokens",
    "connector": "the other's connector on its tower, less that tower alone: what it changes",
    "behind the connector": "the other model whole, less its tower and connector in front of the host's language "
    "model: its language model, and how that fits the coordinates of its connector's output",
}

#: What the maps cannot show.
LIMIT = (
    "A map's target is the host's own image tokens: it carries over what these hold, and never more. A part "
    "that is large in one order and near 0 in the other may be information that one host's tokens lack."
)
#: The key of the swap without a map, where the widths agree.
SWAPPED = "swapped without a map"

Correct = Mapping[str, float]


def difference_split(
    clusters: Mapping[str, str], first: Mapping[str, Correct], second: Mapping[str, Correct]
) -> dict[str, Any]:
    """Return the split as plain values, in percentage points: `value`, `low` and `high` (95 %) each.

    Args:
        clusters: the question's image, by question.
        first: correctness by question of everything in `ROUTE` with the first model as host.
        second: the same with the second model as host; its parts are turned around, so that both orders divide the
            second model's accuracy less the first's.
    """
    ids = list(clusters)
    names = [clusters[one] for one in ids]
    orders = [_parts(first, ids), -_parts(second, ids)]
    columns = np.concatenate([*orders, orders[0] - orders[1], orders[0].sum(axis=1, keepdims=True)], axis=1)
    found = [_plain(one) for one in _estimated(names, columns)]
    count = len(PARTS)
    return {
        "questions": len(ids),
        "images": len(set(names)),
        "difference": found[-1],
        "parts": {
            part: {
                "about": MEANING[part],
                "first as host": found[number],
                "second as host": found[count + number],
                "gap between the orders": found[2 * count + number],
            }
            for number, part in enumerate(PARTS)
        },
        "accuracy": {
            host: dict(zip(answers, map(_plain, _estimated(names, _columns(answers, ids))), strict=True))
            for host, answers in (("first as host", first), ("second as host", second))
        },
    }


def _columns(answers: Mapping[str, Correct], ids: Sequence[str]) -> Array:
    return 100 * np.array([[of_model[one] for of_model in answers.values()] for one in ids], dtype=float)


def _parts(answers: Mapping[str, Correct], ids: Sequence[str]) -> Array:
    """Return each question's parts in points, `[questions, parts]`."""
    along = _columns({name: answers[name] for name in ROUTE}, ids)
    return np.diff(along, axis=1)


def _estimated(clusters: Sequence[str], columns: Array) -> list[Any]:
    return estimates(ClusteredScores.of_values(cluster_values(clusters, columns).T[:, None, :], (-np.inf, None)))


def _plain(estimate: Any) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.interval.low, "high": estimate.interval.high}


def split_lines(split: Mapping[str, Any], first: str, second: str) -> list[str]:
    """Return the split as lines of text."""

    def shown(figure: Mapping[str, float]) -> str:
        return f"{figure['value']:+.1f} [{figure['low']:+.1f}, {figure['high']:+.1f}]"

    orders = ("first as host", "second as host", "gap between the orders")
    lines = [
        f"accuracy of {second} less that of {first}, in points: {shown(split['difference'])}, "
        f"{split['questions']} questions on {split['images']} images",
        f"{'':22}" + "".join(f"{order:>26}" for order in orders),
    ]
    lines += [
        f"{part:22}" + "".join(f"{shown(of_part[order]):>26}" for order in orders)
        for part, of_part in split["parts"].items()
    ]
    for host, answers in split["accuracy"].items():
        if SWAPPED in answers:
            right, own = answers[SWAPPED]["value"], answers["own"]["value"]
            lines.append(f"{host}, the other's tower and connector without a map: {right:.1f} % (its own: {own:.1f} %)")
    return [*lines, *(f"{part}: {about}" for part, about in MEANING.items()), LIMIT]
