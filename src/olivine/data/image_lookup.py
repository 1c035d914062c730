"""Fast look-up of many images under a root: folders are listed once instead of queried for each image.

Which file an image path means is decided in `images.find_image`; opening is in `image_files`.
"""

import os
from functools import lru_cache
from pathlib import Path, PurePath

from olivine.data.images import find_image
from olivine.errors import DataError
from olivine.files import safe_join

#: A folder is listed after this many look-ups in it: a few look-ups in a huge folder are faster than listing it.
_LOOKUPS_BEFORE_LISTING = 64


class ImageLookup:
    """The files under an image root; folders are listed when first needed, and the lists are cached.

    A file that was added after the listing is still found; one that was deleted is missed when it is opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lookups: dict[str, int] = {}
        self._names: dict[str, frozenset[str]] = {}
        self._stems: dict[str, frozenset[str]] = {}

    def find(self, relative: str) -> Path:
        """Return the file of an image path, or the one with the same stem and another image suffix.

        Raises:
            DataError: the path leaves the root, cannot be a path, or there is no such file.
        """
        if self.is_listed(relative):
            return self.root / relative
        path = safe_join(self.root, relative)
        folder = relative.rpartition("/")[0]
        if folder in self._names and path.stem.lower() not in self._stems_in(folder) and not _is_there(path):
            raise DataError(f"image {relative!r} not found under {self.root} (other suffixes tried too).")
        return find_image(self.root, relative)

    def is_listed(self, relative: str) -> bool:
        """Return whether an image's exact name is in its folder's list; False is not a final answer."""
        if "\\" in relative or ":" in relative or ".." in relative or "\0" in relative or relative.startswith("/"):
            return False  # `safe_join` decides on these
        folder, _, name = relative.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            lookups = self._lookups.get(folder, 0) + 1
            self._lookups[folder] = lookups
            if lookups <= _LOOKUPS_BEFORE_LISTING:
                return False
            names = self._names[folder] = frozenset(_files(self.root / folder))
        return name in names

    def _stems_in(self, folder: str) -> frozenset[str]:
        if folder not in self._stems:
            try:
                names = [path.name for path in (self.root / folder).iterdir()]
            except OSError:
                names = []
            self._stems[folder] = frozenset(PurePath(name).stem.lower() for name in names)
        return self._stems[folder]


@lru_cache(maxsize=16)
def image_lookup(root: Path) -> ImageLookup:
    """Return the look-up of a root, with its lists shared by all callers in this process."""
    return ImageLookup(root)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return True  # `find_image` reports what is wrong with it


def _files(folder: Path) -> list[str]:
    """Return the names of regular files, or of links to them, in a folder; none if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if _is_file(entry)]
    except (OSError, ValueError):
        return []


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
