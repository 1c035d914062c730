"""What a run started from besides random numbers and published modules: recorded with it, compared when it resumes.

The recipe's fields are `model.from` and `model.connector.from`; how they are read is in `model`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivine.errors import RequestError
from olivine.files import sha256_of_file
from olivine.model.companion import COMPANION, checksums, read_companion
from olivine.model.hub import CONFIGURATION, local_folder
from olivine.model.model_folder import find_checkpoint, is_run
from olivine.recipe import ModelRecipe
from olivine.registry import locate
from olivine.training.identity import has_begun, recorded


def start_record(model: ModelRecipe) -> dict[str, Any]:
    """Return where a run starts from: for each of the two fields that is set, the path and the hash of its content."""
    given = {"model.from": model.from_}
    if model.connector_ is not None:
        given["model.connector.from"] = model.connector_.from_
    return {key: _described(source, key) for key, source in given.items() if source is not None}


def check_same_start(directory: Path, now: Mapping[str, Any]) -> None:
    """Compare a start with the one that the run in a directory began from; frozen weights are read from it again.

    Raises:
        RequestError: its content has changed since.
    """
    if not has_begun(directory):
        return
    for key, before in recorded(directory).get("start", {}).items():
        found = now.get(key)
        if found is not None and found["sha256"] != before["sha256"]:
            raise RequestError(
                f"{key}: {found['path']} has changed since this run began, so resuming would mix two models. Put the "
                "old one back, or give another output=DIR."
            )


def _described(source: str, key: str) -> dict[str, str]:
    located = locate(source)
    path = Path(located).expanduser()
    if path.is_file():
        return {"path": source, "sha256": sha256_of_file(path)}
    folder = find_checkpoint(path) if is_run(path) else local_folder(located, key, CONFIGURATION)
    return {"path": source, "sha256": _hash_of_folder(folder)}


def _hash_of_folder(folder: Path) -> str:
    """Return the hash of olivine.json, which has that of every other file; without those, a hash of all hashes."""
    companion = folder / COMPANION
    if companion.is_file() and read_companion(folder).files is not None:
        return sha256_of_file(companion)
    return hashlib.sha256(json.dumps(checksums(folder), sort_keys=True).encode()).hexdigest()
