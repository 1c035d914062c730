"""How two runs differ: recipe, data, versions, environment and results, read from what each has recorded.

Nothing is loaded or trained here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from olivine.errors import RequestError
from olivine.files import read_json
from olivine.recipe import PROVENANCE, RECIPE, read_values
from olivine.training.identity import RESULT

Section = Literal["recipe", "data", "environment", "results"]
#: Recipe fields that name locations, not what is computed.
_LOCATIONS = {"output"}
#: The value where one of the two runs has nothing under a key.
ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Difference:
    """One key on which two runs differ; a missing value is `ABSENT`."""

    section: Section
    key: str
    first: Any
    second: Any


def compare_runs(first: Path, second: Path) -> list[Difference]:
    """Return every difference between two run directories, section by section; empty if there is none.

    Stages are matched by name. Seconds are not compared: they differ between any two runs.

    Raises:
        RequestError: one of them is not a run directory.
    """
    before, after = _read(first), _read(second)
    found: list[Difference] = []
    for section in before:
        found += (
            Difference(section, key, old, new) for key, old, new in _differences(before[section], after[section], "")
        )
    return found


def _read(run: Path) -> dict[Section, Any]:
    if not (run / RECIPE).is_file() or not (run / PROVENANCE).is_file():
        raise RequestError(
            f"{run}: not a run directory ({RECIPE} and {PROVENANCE} are missing). Give a directory that train wrote."
        )
    recipe = read_values(run / RECIPE)
    provenance = read_json(run / PROVENANCE)
    data = provenance.pop("data", {})
    results = {path.parent.name: read_json(path) for path in sorted(run.glob(f"*/{RESULT}"))}
    if (run / RESULT).is_file():
        results["stage"] = read_json(run / RESULT)
    for result in results.values():
        result.pop("seconds", None)
    for name in ("name", "seed"):
        provenance.pop(name, None)  # the recipe has them
    return {
        "recipe": {key: _named(value) for key, value in recipe.items() if key not in _LOCATIONS},
        "data": data,
        "environment": provenance,
        "results": results,
    }


def _named(value: Any) -> Any:
    """Return lists of named mappings as mappings by name, so that stages are compared with those of the same name."""
    if isinstance(value, list) and value and all(isinstance(entry, dict) and "name" in entry for entry in value):
        return {entry["name"]: entry for entry in value}
    return value


def _differences(first: Any, second: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            yield from _differences(first.get(key, ABSENT), second.get(key, ABSENT), f"{where}.{key}".lstrip("."))
    elif first != second:
        yield where, first, second
