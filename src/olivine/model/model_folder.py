"""Which model folder a path means: itself, that of a stage's directory, or the last stage's of a run directory.

What is in a model folder is in `companion` and `checkpoint`; runs are written by `training`.
"""

from pathlib import Path
from typing import Any

from olivine.errors import RequestError
from olivine.model.companion import COMPANION
from olivine.recipe import CHECKPOINT, PROVENANCE, RECIPE, RESULT, read_values


def is_run(path: Path) -> bool:
    """Return whether a path is the directory of a run, or of a stage of one, rather than a model folder."""
    return (path / PROVENANCE).is_file() or (path / CHECKPOINT / COMPANION).is_file()


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint folder: `path` itself, that of a stage's directory, or the last stage's of a run directory.

    Raises:
        RequestError: none of these, or the run is not finished.
    """
    if (path / COMPANION).is_file():
        return path
    if (path / CHECKPOINT / COMPANION).is_file():
        return path / CHECKPOINT
    if (path / PROVENANCE).is_file():
        names = [stage["name"] for stage in _recorded_recipe(path)["stages"] if not stage["skip"]]
        if (path / names[-1] / RESULT).is_file():
            return path / names[-1] / CHECKPOINT
        raise RequestError(
            f"{path}: the run is not finished (stage {names[-1]} has no checkpoint). Train it to the end."
        )
    raise RequestError(f"{path}: neither a checkpoint nor a run directory. Expected what `olivine train` wrote.")


def recorded_benchmarks(path: Path) -> list[str]:
    """Return the benchmarks that a run's recipe names; none for a bare checkpoint."""
    return list(_recorded_recipe(path)["evaluate"]) if (path / RECIPE).is_file() else []


def _recorded_recipe(directory: Path) -> dict[str, Any]:
    values = read_values(directory / RECIPE)
    stages = values.get("stages")
    named = (
        isinstance(stages, list)
        and stages
        and all(isinstance(s, dict) and {"name", "skip"} <= s.keys() for s in stages)
    )
    if not named or not isinstance(values.get("evaluate"), list):
        raise RequestError(f"{directory / RECIPE}: not a run's record (stages or evaluate are missing); it is damaged.")
    return values
