"""The location of each sample in WebDataset shards: found once by reading the headers, kept in a file beside them.

The file is only a cache, and nothing in it is trusted that the shards do not confirm: columns, types, bounds.
"""

import json
import tarfile
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olivine.errors import DataError
from olivine.files import atomic_file
from olivine.text_formats import HEAD, foreign_format

#: Beside the shards; without write access there it is rebuilt by every run.
INDEX = ".olivine-index.npz"
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif")
#: Members that are text about the input.
_TEXTS = ("json", "txt")
#: The index's columns and their types: 29 bytes per sample.
_COLUMNS = {"shard": "i", "text_at": "q", "text_size": "i", "image_at": "q", "image_size": "i", "caption": "b"}
_STAMP, _UNREAD = "stamp", "unread"
#: In place of a size: members that cannot be used.
TOO_LARGE, SEVERAL_IMAGES = -1, -2
_LARGEST_TEXT, _LARGEST_IMAGE = 64 * 2**20, 1 * 2**30

Members = dict[str, tuple[int, int]]


class ShardIndex:
    """Columns `[samples]`: the shard, the byte ranges of text and image, and whether the text is a bare caption."""

    def __init__(self, columns: dict[str, NDArray[Any]], unread: Counter[str]) -> None:
        self.columns, self.unread = columns, unread

    def __len__(self) -> int:
        return len(self.columns["shard"])

    def entry(self, index: int) -> dict[str, int]:
        """Return one sample's entry."""
        return {name: int(values[index]) for name, values in self.columns.items()}

    def add_to(self, found: Any) -> None:
        """Add the columns to a hash."""
        for name in sorted(self.columns):
            found.update(self.columns[name].tobytes())


def load_index(root: Path, shards: Sequence[Path]) -> ShardIndex:
    """Return the index of shards under a root: the stored one if it matches them, else a new one, which is stored.

    Raises:
        DataError: a shard is not a complete tar file.
    """
    stored = _stored(root, shards)
    if stored is not None:
        return stored
    index = _build(shards)
    try:
        with atomic_file(root / INDEX) as temporary, temporary.open("wb") as file:
            unread = np.array(json.dumps(index.unread))
            np.savez(file, stamp=_stamp(root, shards), unread=unread, **index.columns)  # type: ignore[arg-type]  # numpy's stub wants a bool
    except OSError:
        pass  # the folder is not writable: the next run reads the shards' headers again
    return index


def _stamp(root: Path, shards: Sequence[Path]) -> NDArray[np.str_]:
    """Return what the index was built from: names, sizes and modification times of the shards."""
    stats = [(shard, shard.stat()) for shard in shards]
    return np.array([f"{s.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}" for s, stat in stats])


def _stored(root: Path, shards: Sequence[Path]) -> ShardIndex | None:
    path = root / INDEX
    if not path.is_file():
        return None
    sizes = np.array([shard.stat().st_size for shard in shards], np.int64)
    try:
        with zipfile.ZipFile(path) as archive:
            # A member takes at least a block of its shard: an index that claims more is not read into memory.
            if sum(member.file_size for member in archive.infolist()) > int(sizes.sum()) + 2**20:
                return None
        with np.load(path, allow_pickle=False) as stored:
            if set(stored.files) != {*_COLUMNS, _STAMP, _UNREAD} or not np.array_equal(
                stored[_STAMP], _stamp(root, shards)
            ):
                return None
            columns = {name: stored[name] for name in _COLUMNS}
            unread = json.loads(str(stored[_UNREAD]))
    except (OSError, ValueError, KeyError, EOFError, MemoryError, RecursionError, zipfile.BadZipFile):
        return None  # truncated, damaged or not ours
    if not _fits(columns, sizes) or not _is_counter(unread):
        return None
    return ShardIndex(columns, Counter(unread))


def _is_counter(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(number, int) for number in value.values())


def _fits(columns: dict[str, NDArray[Any]], shard_sizes: NDArray[np.int64]) -> bool:
    """Return whether every entry lies within its shard."""
    count = columns["shard"].size
    if any(
        values.dtype != np.dtype(_COLUMNS[name]) or values.shape != (count,) or values.dtype.hasobject
        for name, values in columns.items()
    ):
        return False
    shard = columns["shard"]
    if count and (shard.min() < 0 or shard.max() >= len(shard_sizes)):
        return False
    ends = shard_sizes[shard]
    for part in ("text", "image"):
        at, size = columns[f"{part}_at"], columns[f"{part}_size"].astype(np.int64)
        special = (size == TOO_LARGE) | (size == SEVERAL_IMAGES)
        if np.any((at < 0) | (at > ends) | ((size < 0) & ~special) | (np.maximum(size, 0) > ends - at)):
            return False
    return True


def _build(shards: Sequence[Path]) -> ShardIndex:
    # Arrays and not lists: an int in a list takes 36 bytes, and there may be tens of millions.
    index = {name: array(kind) for name, kind in _COLUMNS.items()}
    unread: Counter[str] = Counter()
    for number, shard in enumerate(shards):
        for members in _samples_of(shard):
            text = members.get("json") or members.get("txt")
            images = [members[suffix] for suffix in _IMAGES if suffix in members]
            read = {*_IMAGES, "json" if "json" in members else "txt"}
            if text is None:
                unread.update(f"{suffix} (without text)" for suffix in members)
                continue
            unread.update(suffix[:30] for suffix in members if suffix not in read)
            image = images[0] if images else (0, 0)
            if len(images) > 1:
                image = (image[0], SEVERAL_IMAGES)
            row = (number, *_bounded(text, _LARGEST_TEXT), *_bounded(image, _LARGEST_IMAGE), "json" not in members)
            for column, value in zip(index.values(), row, strict=True):
                column.append(int(value))
    return ShardIndex({name: np.frombuffer(values, dtype=values.typecode) for name, values in index.items()}, unread)


def _bounded(position: tuple[int, int], largest: int) -> tuple[int, int]:
    return position if position[1] <= largest else (position[0], TOO_LARGE)


def _samples_of(shard: Path) -> Iterator[Members]:
    """Yield each sample's members by suffix as (offset, size); WebDataset keeps a sample's members together."""
    key: str | None = None
    members: Members = {}
    end = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                _require_within(member, end, shard)
                archive.members = []  # type: ignore[attr-defined]  # else every header is kept to the end
                if not member.isfile() or member.issparse():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if (folder + "/" + stem) != key:
                    if members:
                        yield members
                    key, members = folder + "/" + stem, {}
                members[suffix.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        with shard.open("rb") as file:
            foreign = foreign_format(file.read(HEAD))
        described = f"this is {foreign}" if foreign and "tar archive" not in foreign else f"{error}"
        raise DataError(f"{shard}: not a complete, uncompressed tar file ({described}). Fetch it again.") from None
    if members:
        yield members


def _require_within(member: tarfile.TarInfo, end: int, shard: Path) -> None:
    """Raise if a header claims a size beyond its shard: a negative one would be read forever."""
    if member.size < 0 or member.offset_data + (0 if member.issparse() else member.size) > end:
        raise DataError(
            f"{shard}: member {member.name[:80]!r} at byte {member.offset} claims {member.size:,} bytes; the file has "
            f"{end:,}. Is the shard truncated or damaged? Fetch it again."
        )
