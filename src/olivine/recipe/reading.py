"""Reading a recipe: its file and those that it is based on, overrides, the check against the schema."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from olivine.errors import RequestError
from olivine.recipe.experiment import Recipe
from olivine.recipe.run_files import PROVENANCE, RECIPE, STEP
from olivine.recipe.values import merge, override
from olivine.schema_mistakes import explain
from olivine.strict_yaml import read_yaml


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, applied over what it is based on, with dotted overrides on top.

    `base: other.yaml` (relative to the file) names a recipe to start from; mappings merge key by key and stages by
    their names. An override is `dotted.key=value`, the value in YAML; stages are addressed by name
    (`stages.align.lr=2e-3`).

    `path` may also be a run directory, or the recipe in it: the output is then that directory, even if it was moved.

    Raises:
        RequestError: no such file, not YAML, an unknown key (with the nearest valid one) or a wrong value.
    """
    file, folder = _of_run(path)
    values = read_values(file)
    if folder is not None:
        values["output"] = str(folder)
    given: dict[str, str] = {}
    for text in overrides:
        key = text.partition("=")[0]
        if given.setdefault(key, text) != text:
            raise RequestError(f"override {key} is given twice ({given[key]!r}, {text!r}); give it once.")
        override(values, text)
    return from_values(values, where=str(file))


def read_values(path: Path) -> dict[str, Any]:
    """Return a recipe's plain values, with what it is based on merged in, not yet checked.

    Raises:
        RequestError: no such file, not YAML, or based on itself.
    """
    return _read(path, seen=())


def from_values(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check plain values against the schema.

    Raises:
        RequestError: every unknown key and wrong value, one per line.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RequestError(f"{where}: not a valid recipe.\n" + explain(error, values, Recipe)) from None


def without_overruled(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's plain values without `epochs` where a number of steps takes its place."""
    return {key: value for key, value in stage.items() if key != "epochs" or stage.get("steps") is None}


def _of_run(path: Path) -> tuple[Path, Path | None]:
    """Return the recipe's file, and its run directory if it is the record of a run."""
    file = path / RECIPE if path.is_dir() else path
    if file.name != RECIPE or not (file.parent / PROVENANCE).is_file():
        return path, None
    if (file.parent / STEP).is_file():
        raise RequestError(f"{path}: a step of a study. Run the study itself: olivine ablate {file.parents[2]}")
    return file, file.parent


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen:
        raise RequestError(f"{path}: the recipe is based on itself ({' -> '.join(str(p) for p in seen)}).")
    values = read_yaml(path, "recipe")
    if not isinstance(values, dict):
        found = "the file is empty" if values is None else f"this is a {type(values).__name__}"
        raise RequestError(f"{path}: {found}; expected a mapping with keys such as name, model, data and stages.")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RequestError(f"{path}: base: expected the path of another recipe.")
    return merge(_read(path.parent / base, (*seen, resolved)), values)
