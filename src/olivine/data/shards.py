"""WebDataset shards (.tar) as samples: an index of where each lies, built once; a sample is read when it is asked for.

What a conversation may look like is in `llava_json`; what a broken sample does is its source's policy.
"""

import hashlib
import json
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olivine.data.lazy_samples import LazySamples
from olivine.data.llava_json import IMAGE_MARK, ItemError, parse_item
from olivine.errors import DataError
from olivine.files import atomic_file
from olivine.records import Sample

#: Beside the shards; without the right to write there it is built anew by every run.
INDEX = ".olivine-index.npz"
_PICTURES = ("jpg", "jpeg", "png", "webp")
#: The index's columns and their types: 29 bytes a sample.
_COLUMNS = {"shard": "i", "text_at": "q", "text_size": "i", "image_at": "q", "image_size": "i", "caption": "b"}
#: What a bare caption (`.txt`) is taken to answer.
_CAPTION_QUESTION = "Describe the image briefly."


class ShardSamples(LazySamples):
    """The samples of all `*.tar` under a folder (or of one file), in the order of names and within each of its members.

    A sample is the members that share a name up to the first dot of its last part: `.json` with LLaVA's
    `conversations`, or `.txt` with a caption, and at most one picture. Memory is that of the index: 29 bytes a sample.

    Raises:
        DataError: no shard, one that is no tar file, or no sample in any.
    """

    def __init__(self, path: Path) -> None:
        self.shards = [path] if path.is_file() else sorted(path.rglob("*.tar"))
        if not self.shards:
            raise DataError(f"{path}: no .tar shard there. Expected WebDataset shards, or one of them.")
        self._root = path.parent if path.is_file() else path
        self._index = self._stored_index() or self._store(_build_index(self.shards))
        if not len(self):
            raise DataError(f"{path}: no sample in {len(self.shards)} shards; expected KEY.json (or KEY.txt) members.")

    def __len__(self) -> int:
        return len(self._index["shard"])

    def read(self, index: int) -> Sample:
        """One sample.

        Raises:
            ItemError: what is wrong with it, with its shard and place.
        """
        entry = {name: int(values[index]) for name, values in self._index.items() if name != "stamp"}
        shard = self.shards[entry["shard"]]
        content = read_member(shard, entry["text_at"], entry["text_size"])
        image = None
        if entry["image_at"]:
            image = f"{shard.relative_to(self._root).as_posix()}@{entry['image_at']}+{entry['image_size']}"
        name = f"{shard.name}, sample {index}"
        try:
            text = content.decode("utf-8")
            item = _captioned(text) if entry["caption"] else json.loads(text)
        except ValueError as error:
            raise ItemError("not JSON", f"{name}: its .json member cannot be read ({error}).") from None
        if not isinstance(item, dict):
            raise ItemError("not an object", f"{name}: expected an object with conversations.")
        item = {"id": f"{shard.stem}/{index}", **item}
        item.pop("image", None)
        return parse_item({**item, **({"image": image} if image else {})}, index)

    def fingerprint(self) -> str:
        """A hash of the shards' names and of where every sample lies in them, in hexadecimal."""
        names = "\n".join(shard.relative_to(self._root).as_posix() for shard in self.shards)
        found = hashlib.sha256(names.encode())
        for name in sorted(self._index):
            found.update(self._index[name].tobytes())
        return found.hexdigest()

    def _stamp(self) -> NDArray[np.str_]:
        """What the index was made of: names, sizes and times of the shards."""
        stats = [(shard, shard.stat()) for shard in self.shards]
        return np.array([f"{s.relative_to(self._root)} {stat.st_size} {stat.st_mtime_ns}" for s, stat in stats])

    def _stored_index(self) -> dict[str, NDArray[Any]] | None:
        path = self._root / INDEX
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                if not np.array_equal(stored["stamp"], self._stamp()):
                    return None
                return {name: stored[name] for name in stored.files if name != "stamp"}
        except (OSError, ValueError, KeyError):
            return None  # cut short or not ours: it is only a shortcut

    def _store(self, index: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            with atomic_file(self._root / INDEX) as temporary, temporary.open("wb") as file:
                np.savez(file, stamp=self._stamp(), **index)  # type: ignore[arg-type]  # numpy's stub wants a bool
        except OSError:
            pass  # a folder that cannot be written: the next run reads the shards' headers again
        return index


def read_member(shard: Path, offset: int, size: int) -> bytes:
    """A member's content by its place in the shard.

    Raises:
        DataError: the shard ends before it does.
    """
    with shard.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) != size:
        raise DataError(f"{shard}: ends within a member at byte {offset}. Is the shard cut short? Fetch it again.")
    return content


def picture_bytes(root: Path, image: str) -> bytes:
    """The file content of a sample's picture, from the name that `ShardSamples` gave it.

    Raises:
        DataError: see `read_member`.
    """
    shard, _, place = image.rpartition("@")
    offset, _, size = place.partition("+")
    folder = root.parent if root.is_file() else root
    return read_member(folder / shard, int(offset), int(size))


def _captioned(text: str) -> dict[str, object]:
    question = {"from": "human", "value": f"{IMAGE_MARK}\n{_CAPTION_QUESTION}"}
    return {"conversations": [question, {"from": "gpt", "value": text.strip()}]}


def _build_index(shards: Sequence[Path]) -> dict[str, NDArray[Any]]:
    # Arrays and not lists: an int in a list takes 36 bytes, and there may be tens of millions.
    index = {name: array(kind) for name, kind in _COLUMNS.items()}
    for number, shard in enumerate(shards):
        for members in _samples_of(shard):
            text = members.get("json") or members.get("txt")
            if text is None:
                continue
            picture = next((members[suffix] for suffix in _PICTURES if suffix in members), (0, 0))
            for column, value in zip(index.values(), (number, *text, *picture, "json" not in members), strict=True):
                column.append(int(value))
    return {name: np.frombuffer(values, dtype=values.typecode) for name, values in index.items()}


def _samples_of(shard: Path) -> Iterator[dict[str, tuple[int, int]]]:
    """Members by suffix as (offset, size), sample by sample; WebDataset keeps a sample's members together."""
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if (folder + "/" + stem) != key:
                    if members:
                        yield members
                    key, members = folder + "/" + stem, {}
                members[suffix.lower()] = (member.offset_data, member.size)
                archive.members = []  # type: ignore[attr-defined]  # else every header is held to the end
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard}: not a whole, uncompressed tar file ({error}). Fetch it again.") from None
    if members:
        yield members
