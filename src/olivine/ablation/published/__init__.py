"""Published tables shipped as data, and the effects that follow from them: points without intervals.

Comparing a study with them is in `ablation.agreement`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from olivine.errors import RequestError, unknown_name
from olivine.statistics import Configuration, Contrast, contrasts
from olivine.strict_yaml import parse_yaml

#: Names of the tables on the command line; `paper` is the one that this project reproduces.
_FILES = {"paper": "llava-gemma", "llava-gemma": "llava-gemma"}


@dataclass(frozen=True, slots=True)
class PublishedMetric:
    """One column: benchmark and metric by Olivine's names, and the values per configuration in reports' units."""

    key: str
    label: str
    benchmark: str
    metric: str
    scale: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table of a factorial experiment: axes (the first level is the baseline), configurations, columns."""

    name: str
    title: str
    source: str
    notes: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    configurations: tuple[Configuration, ...]
    metrics: tuple[PublishedMetric, ...]
    #: Effects that the publication itself states, by (axis, level): benchmark -> effect, as printed.
    stated: Mapping[tuple[str, str], Mapping[str, float]]

    def effects(self, metric: PublishedMetric) -> list[tuple[Contrast, float]]:
        """Return every main effect and interaction of a column, in its scaled units."""
        column = np.array(metric.values)
        return [(contrast, float(contrast.weights @ column)) for contrast in contrasts(self.axes, self.configurations)]


def table(name: str) -> PublishedTable:
    """Return a shipped table by its name.

    Raises:
        RequestError: there is no table of that name.
    """
    if name not in _FILES:
        raise RequestError(f"--against: {unknown_name(name, list(_FILES))}")
    file = files("olivine.ablation.published") / f"{_FILES[name]}.yaml"
    return _parse(parse_yaml(file.read_text(encoding="utf-8"), file.name))


def _parse(raw: Any) -> PublishedTable:
    metrics = [
        PublishedMetric(
            key,
            raw["metrics"][key]["label"],
            raw["metrics"][key]["benchmark"],
            raw["metrics"][key]["metric"],
            float(raw["metrics"][key]["scale"]),
            tuple(row["values"][position] * raw["metrics"][key]["scale"] for row in raw["rows"]),
        )
        for position, key in enumerate(raw["columns"])
    ]
    stated = {
        (row["axis"], row["level"]): {k: v for k, v in row.items() if k not in ("axis", "level")}
        for row in raw["figure"]["effects"]
    }
    return PublishedTable(
        name=raw["name"],
        title=raw["title"],
        source=" ".join(raw["source"].split()),
        notes=tuple(" ".join(note.split()) for note in raw["notes"]),
        axes={axis: tuple(levels) for axis, levels in raw["axes"].items()},
        configurations=tuple(tuple(row["configuration"]) for row in raw["rows"]),
        metrics=tuple(metrics),
        stated=stated,
    )
