"""Whether a run directory's run is the one that is asked for: what may change before it is resumed, and what not.

A study's steps have identities of their own: `ablate.plan`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olivine.errors import RequestError
from olivine.files import read_json
from olivine.recipe import PROVENANCE, RECIPE, Recipe, read_values
from olivine.strict_yaml import parse_yaml
from olivine.training.log import METRICS
from olivine.training.resume import POINTS

CHECKPOINT, RESULT = "checkpoint", "result.json"
#: May differ, and the same bits come out: where things lie (data are known by their content), what is kept and looked
#: at, what memory is spared without other sums, and what can only stop a run: a broken item that is skipped from now
#: on would have stopped the steps before.
_SAME_BITS = re.compile(
    r"(output|evaluate|sharding)\b.*|optimizer\.(spike|checkpoint_activations)|data\.[^.]+\.(json|on_error)"
    r"|stages\.[^.]+\.(save_every|keep|validate_every)"
)
#: May differ, and the same is learnt but for the last bits: the same sums in another order. Recorded in provenance.
_SAME_MATHEMATICS = re.compile(r"stages\.[^.]+\.row_tokens|optimizer\.compile")


def check_same_recipe(directory: Path, recipe: Recipe) -> dict[str, Any]:
    """Return the changed fields that may change the last bits, each with its values before and now.

    Stages that have not begun may change as they like, and the whole recipe while none has.

    Raises:
        RequestError: the directory holds a run of another recipe.
    """
    path = directory / RECIPE
    if not path.is_file():
        return {}
    before, now = read_values(path), parse_yaml(recipe.to_yaml(), "the recipe")
    begun = _begun(directory, before)
    if not begun:
        return {}
    before["stages"], now["stages"] = before["stages"][:begun], now["stages"][:begun]
    changed = {key: values for key, *values in _differences(before, now, "") if not _SAME_BITS.fullmatch(key)}
    different = sorted(key for key in changed if not _SAME_MATHEMATICS.fullmatch(key))
    if different:
        listed = ", ".join(f"{key} ({_short(changed[key][0])} -> {_short(changed[key][1])})" for key in different)
        raise RequestError(
            f"{directory} holds a run of another recipe; different: {listed}. These decide what its steps so far have "
            "learnt. Give another output=DIR, or remove that directory to start again."
        )
    return {key: {"before": old, "now": new} for key, (old, new) in changed.items()}


def check_same_data(directory: Path, now: Mapping[str, Any]) -> None:
    """Compare the data with those that the run has begun on; `now` is provenance's `data`.

    Raises:
        RequestError: a source has changed since.
    """
    if not (directory / RECIPE).is_file() or not _begun(directory, read_values(directory / RECIPE)):
        return
    for name, before in recorded(directory).get("data", {}).items():
        found = now.get(name)
        if found is not None and found["sha256"] != before["sha256"]:
            raise RequestError(
                f"data.{name}: {found['json']} has changed since this run began, so resuming would mix two data sets. "
                "Put the old file back, or give another output=DIR."
            )


def recorded(directory: Path) -> dict[str, Any]:
    """Return a run's provenance, empty where there is none."""
    path = directory / PROVENANCE
    return dict(read_json(path)) if path.is_file() else {}


def _begun(directory: Path, values: Mapping[str, Any]) -> int:
    """How many of the recorded recipe's stages come up to the last that has left anything."""
    names = [stage["name"] for stage in values["stages"]]
    return max((number for number, name in enumerate(names, start=1) if _has_begun(directory / name)), default=0)


def _has_begun(folder: Path) -> bool:
    metrics = folder / METRICS
    return (
        (folder / RESULT).is_file() or (folder / POINTS).is_dir() or (metrics.is_file() and metrics.stat().st_size > 0)
    )


def _differences(before: Any, now: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            name = old.get("name", index) if isinstance(old, dict) else index
            yield from _differences(old, new, f"{where}.{name}")
    elif before != now:
        yield where, before, now


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
