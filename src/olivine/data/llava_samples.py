"""A LLaVA JSON file as samples that stay in the file: each one's byte range is kept, and it is parsed on demand.

All items are read once, to find the broken ones, before anything is trained.
"""

import os
import weakref
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olivine.data.image_lookup import image_lookup
from olivine.data.item_error import ItemError
from olivine.data.json_items import parse, scan
from olivine.data.lazy_samples import LazySamples
from olivine.data.llava_json import item_name, parse_item
from olivine.errors import DataError
from olivine.records import MarkRule, Sample

#: Called with (bytes read, total bytes).
Progress = Callable[[int, int], None]
_PROGRESS_EVERY = 2048
#: Where a system cannot read at a position (Windows), one thread at a time moves there and reads.
_SEEKING = Lock()


class LlavaSamples(LazySamples):
    """The usable items of a file, 21 bytes each in memory, independent of their size.

    Args:
        path: the file; it must not change while samples are read, and is refused if it does.
        positions: (number in the file, first byte, bytes) of each usable item.
        state: the file's size and modification time, from before it was read.
        marks: where a single image's mark goes.

    If an id occurs twice, its samples are named `id#number`, so that counts by id stay correct.
    """

    def __init__(self, path: Path, positions: "Positions", state: tuple[int, int], marks: MarkRule = "front") -> None:
        self._path = path
        self._marks = marks
        #: Numbers in the file, first bytes and sizes, `[items]` each.
        self.columns = positions.columns()
        self._numbers, self._starts, self._sizes = self.columns
        self._repeated = _repeated(np.frombuffer(positions.ids, np.int64))
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._file)
        self._state = state
        self._require_unchanged()

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, index: int, unread: Counter[str] | None = None) -> Sample:
        """Return one sample.

        Raises:
            DataError: the file has changed since it was first read.
        """
        self._require_unchanged()
        number = int(self._numbers[index])
        # Not mapped into memory: pages of a mapped file would count as this process's own.
        content = _read_at(self._file, int(self._sizes[index]), int(self._starts[index]))
        sample = parse_item(parse(content, f"item {number}"), number, unread, marks=self._marks)
        return replace(sample, id=f"{sample.id}#{number}") if self._repeated[index] else sample

    def _require_unchanged(self) -> None:
        status = os.fstat(self._file)
        if (status.st_size, status.st_mtime_ns) != self._state:
            raise DataError(f"{self._path}: changed while it was in use. Start again.")

    @property
    def repeated_ids(self) -> NDArray[np.int64]:
        """Indices of samples whose id occurs more than once."""
        return np.flatnonzero(self._repeated)


def _read_at(file: int, size: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, size, start)
    with _SEEKING:
        os.lseek(file, start, os.SEEK_SET)
        return os.read(file, size)


class Positions:
    """The byte ranges of items in a file, in growing arrays: a list would take 36 bytes per number."""

    def __init__(self) -> None:
        self.numbers, self.starts, self.sizes, self.ids = array("i"), array("q"), array("i"), array("q")

    def add(self, number: int, start: int, size: int, identity: str) -> None:
        """Add an item."""
        self.numbers.append(number)
        self.starts.append(start)
        self.sizes.append(size)
        self.ids.append(hash(identity))

    def columns(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """Return (numbers, starts, sizes), `[items]` each."""
        numbers, sizes = np.frombuffer(self.numbers, np.int32), np.frombuffer(self.sizes, np.int32)
        return numbers, np.frombuffer(self.starts, np.int64), sizes


def read_through(
    path: Path,
    images: Path | None,
    on_error: Callable[[ItemError, int], None],
    on_sample: Callable[[Sample, Any, int], None] | None = None,
    unread: Counter[str] | None = None,
    progress: Progress | None = None,
    marks: MarkRule = "front",
) -> tuple[LlavaSamples, int]:
    """Read every item once; return the usable ones, and the total number of items.

    Args:
        path: the JSON file.
        images: the root of the image paths.
        on_error: called with a broken item's error and its number.
        on_sample: called with each usable sample, what it was parsed from, and its number.
        unread: counts keys that nothing reads.
        progress: called with (bytes read, total bytes).
        marks: where a single image's mark goes.

    Raises:
        DataError: the file as a whole cannot be read; or what `on_error` raises.
    """
    positions, count = Positions(), 0
    status = path.stat() if path.is_file() else None
    total = status.st_size if status else 0
    for found in scan(path):
        count = found.index + 1
        try:
            if isinstance(found.value, ItemError):
                raise found.value
            sample = parse_item(found.value, found.index, unread, marks=marks)
            for image in sample.all_images:
                require_image(image, images, found.value, found.index)
            if on_sample is not None:
                on_sample(sample, found.value, found.index)
            positions.add(found.index, found.start, found.size, sample.id)
        except ItemError as error:
            on_error(error, found.index)
        if progress is not None and count % _PROGRESS_EVERY == 0:
            progress(found.start + found.size, total)
    if progress is not None:
        progress(total, total)
    assert status is not None, "a missing file was refused"
    return LlavaSamples(path, positions, (status.st_size, status.st_mtime_ns), marks), count


def require_image(image: str, root: Path | None, item: Any, number: int) -> None:
    """Raise if an item's image is missing.

    Raises:
        ItemError: no image root was given, the path leaves it, or the file is missing.
    """
    if root is None:
        name = item_name(item, number)
        raise ItemError("no image root", f"{name}: has an image, but no image root was given (images: DIR).")
    files = image_lookup(root)
    if not files.is_listed(image):
        try:
            files.find(image)
        except DataError as error:
            raise ItemError("missing image", f"{item_name(item, number)}: {error}") from None


def _repeated(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which ids occur more than once."""
    ordered = np.sort(ids)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.isin(ids, twice) if len(twice) else np.zeros(len(ids), bool)
