"""Short hashes that identify data: files by content, images of very large folders by name and size.

Hashing hundreds of gigabytes of images to plan a study would take hours; training compares each image with the state
it had when it was first opened. Content hashes are kept in a file, so that planning again reads nothing twice.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olivine.data.sources import fingerprint
from olivine.errors import DataError
from olivine.files import read_json, sha256_of_file, write_json
from olivine.recipe import DataRecipe

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
#: Images of a folder are hashed by content up to this many bytes in all (about 7 s at the 0.6 GB/s of one core).
IMAGE_BYTES = 4 * 10**9


class Fingerprints:
    """Hashes of files and folders, each read once.

    Args:
        memory: file that keeps content hashes between runs, by path, size and time of change; None keeps none.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, str] = _remembered(memory)
        self._new = False
        self._folders: dict[Path, str] = {}
        #: Paths that were requested but do not exist.
        self.missing: list[Path] = []

    def of(self, path: Path | None) -> str | None:
        """Return the hash of a file, or of a folder with everything below it; None for no path.

        A path that does not exist is added to `missing` and hashed by its name, so that a plan can still be shown.
        """
        if path is None:
            return None
        if path.is_dir():
            return self._of_folder(path)
        if path.is_file():
            return self._of_file(path)
        if path not in self.missing:
            self.missing.append(path)
        return f"missing {path}"

    def of_source(self, source: DataRecipe) -> str | None:
        """Return the hash of a data source's file, or the source's own fingerprint if there is too much to read."""
        if source.format == "llava" or not source.json_.exists():
            return self.of(source.json_)
        if source.json_ not in self._folders:
            self._folders[source.json_] = fingerprint(source)
        return self._folders[source.json_]

    def remember(self) -> None:
        """Save the content hashes."""
        if self._memory is not None and self._new:
            write_json(self._memory, self._known)
            self._new = False

    def _of_file(self, path: Path, *, by_size: bool = False) -> str:
        stat = path.stat()
        if by_size and path.suffix.lower() in _IMAGES:
            return f"{stat.st_size} bytes"
        # ctime cannot be set back by a program, unlike mtime.
        key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
        if key not in self._known:
            self._known[key] = sha256_of_file(path)
            self._new = True
        return self._known[key]

    def _of_folder(self, root: Path) -> str:
        if root not in self._folders:
            files = list(_files(root))
            by_size = sum(f.stat().st_size for _, f in files if f.suffix.lower() in _IMAGES) > IMAGE_BYTES
            lines = sorted(f"{name}\t{self._of_file(file, by_size=by_size)}" for name, file in files)
            self._folders[root] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return self._folders[root]


def digest(identity: Any) -> str:
    """Return the hash of plain values, independent of key order: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield every file below `root` with its relative name; hidden files (written by tools) are ignored."""
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                file = Path(folder) / name
                yield file.relative_to(root).as_posix(), file


def _remembered(memory: Path | None) -> dict[str, str]:
    if memory is None or not memory.is_file():
        return {}
    try:
        return dict(read_json(memory))
    except (DataError, TypeError, ValueError):
        return {}  # a damaged file only costs the time to hash again
