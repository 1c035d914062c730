"""Whether a run directory holds the requested run: what may change before it is resumed, and what may not.

What a field decides is declared on the field (`field_identity`), where a study's steps read it too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivine.errors import RequestError
from olivine.field_identity import Change, Identity, changes
from olivine.files import read_json
from olivine.recipe import CHECKPOINT as CHECKPOINT
from olivine.recipe import PROVENANCE, RECIPE, Recipe, read_values, without_overruled
from olivine.recipe import RESULT as RESULT
from olivine.strict_yaml import parse_yaml
from olivine.training.log import METRICS
from olivine.training.training_checkpoints import CHECKPOINTS


def check_same_recipe(directory: Path, recipe: Recipe) -> list[Change]:
    """Return the changes that may alter the last bits, which provenance records.

    Stages that have not begun may change freely, and so may the data that only they read; while no stage has begun,
    the whole recipe may.

    Raises:
        RequestError: the directory holds a run of another recipe.
    """
    path = directory / RECIPE
    if not path.is_file():
        return []
    before, now = read_values(path), parse_yaml(recipe.to_yaml(), "the recipe")
    begun = _begun(directory, before)
    if not begun:
        return []
    found = changes(Recipe, *_up_to(begun, before, now))
    different = [change for change in found if change.decides.identity is Identity.ANOTHER_OUTPUT]
    if different:
        listed = "; ".join(
            f"{change.key} ({_short(change.before)} -> {_short(change.now)}), which decides {change.decides.what}"
            for change in different
        )
        raise RequestError(
            f"{directory} holds a run of another recipe; different: {listed}. Its steps so far were trained "
            "with the former. Give another output=DIR, or remove that directory to start again."
        )
    return [change for change in found if change.decides.identity is Identity.SAME_MATHEMATICS]


def check_same_data(directory: Path, now: Mapping[str, Any]) -> None:
    """Compare the data with what the run began on; `now` is provenance's `data`.

    Raises:
        RequestError: a source has changed since.
    """
    if not has_begun(directory):
        return
    for name, before in recorded(directory).get("data", {}).items():
        found = now.get(name)
        if found is not None and found["sha256"] != before["sha256"]:
            raise RequestError(
                f"data.{name}: {found['json']} has changed since this run began, so resuming would mix two data sets. "
                "Put the old file back, or give another output=DIR."
            )


def has_begun(directory: Path) -> bool:
    """Return whether any stage of the run in a directory has written anything."""
    return (directory / RECIPE).is_file() and bool(_begun(directory, read_values(directory / RECIPE)))


def recorded(directory: Path) -> dict[str, Any]:
    """Return a run's provenance; empty if there is none."""
    path = directory / PROVENANCE
    return dict(read_json(path)) if path.is_file() else {}


def _begun(directory: Path, values: Mapping[str, Any]) -> int:
    """Return the number of the recorded recipe's stages up to the last that has written anything."""
    names = [stage["name"] for stage in values["stages"]]
    return max((number for number, name in enumerate(names, start=1) if _stage_has_begun(directory / name)), default=0)


def _stage_has_begun(folder: Path) -> bool:
    metrics = folder / METRICS
    return (
        (folder / RESULT).is_file()
        or (folder / CHECKPOINTS).is_dir()
        or (metrics.is_file() and metrics.stat().st_size > 0)
    )


def _up_to(begun: int, *recipes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what decides the first stages of two recipes: those stages, and the sources that either recipe reads."""
    stages = [[without_overruled(stage) for stage in recipe["stages"][:begun]] for recipe in recipes]
    read = {stage["data"] for some in stages for stage in some}
    if any(isinstance((recipe["model"]["language"] or {}).get("tokenizer"), dict) for recipe in recipes):
        read |= {name for recipe in recipes for name in recipe["data"]}  # a trained tokenizer has read them all
    return [
        {**recipe, "stages": some, "data": {name: source for name, source in recipe["data"].items() if name in read}}
        for recipe, some in zip(recipes, stages, strict=True)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
