"""Where images lie under a root, for many of them: folders are listed once, not asked for each image.

Which file an image path means is `images.find_image`'s to say; opening is in `image_files`.
"""

import os
from functools import lru_cache
from pathlib import Path, PurePath

from olivine.data.images import find_image
from olivine.errors import DataError
from olivine.files import safe_join

#: A folder is listed once this many of its images have been asked for: few questions to a huge one are faster.
_LOOKUPS_BEFORE_LISTING = 64


class ImageLookup:
    """The files under an image root; lists of names are taken when they are first needed, and kept.

    A file that is not in a list but has come since is found; one that has gone since is missed when it is opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._asked: dict[str, int] = {}
        self._names: dict[str, frozenset[str]] = {}
        self._stems: dict[str, frozenset[str]] = {}

    def find(self, relative: str) -> Path:
        """The file of an image path, or the one with the same stem and another image suffix.

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
        """Whether an image lies there by its exact name, as its folder's list has it; False is no final answer."""
        if "\\" in relative or ":" in relative or ".." in relative or "\0" in relative or relative.startswith("/"):
            return False  # `inside` has the word on these
        folder, _, name = relative.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            asked = self._asked.get(folder, 0) + 1
            self._asked[folder] = asked
            if asked <= _LOOKUPS_BEFORE_LISTING:
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
    """Return the files under a root, its lists shared by all that ask in this process."""
    return ImageLookup(root)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return True  # `find_image` says what is wrong with it


def _files(folder: Path) -> list[str]:
    """Names of regular files, or of links to such, in a folder; none where it cannot be listed."""
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
