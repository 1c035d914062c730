"""WebDataset shards (.tar) as samples: an index of their locations, built once; a sample is read on demand.

The index itself is in `shard_index`; what a conversation may look like is in `llava_json`; what happens to a broken
sample is its source's policy.
"""

import hashlib
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from olivine.data.item_error import ItemError, shortened
from olivine.data.json_items import parse
from olivine.data.lazy_samples import LazySamples
from olivine.data.llava_json import IMAGE_MARK, parse_item
from olivine.data.shard_index import INDEX, SEVERAL_IMAGES, TOO_LARGE, ShardIndex, load_index
from olivine.errors import DataError
from olivine.records import MarkRule, Sample

#: The question that a bare caption (`.txt`) answers.
_CAPTION_QUESTION = "Describe the image briefly."
_BLOCK = 512


class ShardSamples(LazySamples):
    """The samples of all `*.tar` under a folder (or of one file), shards by name, samples in the order of members.

    A sample is the members that share a path up to the first dot of the file name: `.json` with LLaVA's
    `conversations`, or `.txt` with a caption, and at most one image. Memory is that of the index: 29 bytes per sample.
    Since an id may occur twice, it is followed by the sample's number: `id#number`.

    Raises:
        DataError: there is no shard, one is not a tar file, or none has a sample.
    """

    def __init__(self, path: Path, marks: MarkRule = "front") -> None:
        self._marks = marks
        self.shards = [path] if path.is_file() else sorted(path.rglob("*.tar"))
        if not self.shards:
            raise DataError(f"{path}: there is no .tar shard. Expected WebDataset shards, or one of them.")
        self._root = path.parent if path.is_file() else path
        self._index: ShardIndex = load_index(self._root, self.shards)
        if not len(self):
            raise DataError(f"{path}: no sample in {len(self.shards)} shards; expected KEY.json (or KEY.txt) members.")

    def __len__(self) -> int:
        return len(self._index)

    @property
    def unread(self) -> Counter[str]:
        """Members that nothing reads, by their suffix."""
        return Counter({f".{suffix} member": count for suffix, count in self._index.unread.items()})

    def read(self, index: int, unread: Counter[str] | None = None) -> Sample:
        """Return one sample.

        Raises:
            ItemError: what is wrong with it, with its shard and index.
        """
        entry = self._index.entry(index)
        shard = self.shards[entry["shard"]]
        name = f"{shard.name}, sample {index}"
        if TOO_LARGE in (entry["text_size"], entry["image_size"]):
            raise ItemError("member too large", f"{name}: a member is too large for one sample.")
        if entry["image_size"] == SEVERAL_IMAGES:
            raise ItemError("several images", f"{name}: has several image members; only one per item is read.")
        content = read_member(shard, entry["text_at"], entry["text_size"])
        image = None
        if entry["image_at"]:
            image = f"{shard.relative_to(self._root).as_posix()}@{entry['image_at']}+{entry['image_size']}"
        item = _captioned(content, name) if entry["caption"] else _json(content, name)
        own = item.get("id")
        item = {**item, "id": f"{shard.stem}/{index}" if own is None else own}
        item.pop("image", None)
        named = {"image": image} if image else {}
        sample = parse_item({**item, **named}, index, unread, name=name, marks=self._marks)
        if sample.all_images != tuple(named.values()):
            raise ItemError("several images", f"{name}: names images that are no members; only its one member is read.")
        return sample if own is None else replace(sample, id=f"{sample.id}#{index}")

    def fingerprint(self) -> str:
        """Return a hash of the shards' names and the locations of all samples in them, in hexadecimal."""
        names = "\n".join(shard.relative_to(self._root).as_posix() for shard in self.shards)
        found = hashlib.sha256(names.encode())
        self._index.add_to(found)
        return found.hexdigest()


def read_member(shard: Path, offset: int, size: int) -> bytes:
    """Return a member's content by its byte range in the shard.

    Raises:
        DataError: the shard ends before the member does, or has another member there than the index says.
    """
    with shard.open("rb") as file:
        file.seek(max(0, offset - _BLOCK))
        header = file.read(_BLOCK)
        content = file.read(size)
    if len(content) != size:
        raise DataError(f"{shard}: ends within a member at byte {offset}. Is the shard truncated? Fetch it again.")
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        matches = member.size == size and member.isreg()
    except tarfile.TarError:
        matches = False
    if not matches:
        raise DataError(
            f"{shard}: no member of {size:,} bytes begins at byte {offset}. Was the shard replaced? "
            f"Remove {INDEX} beside it to have it indexed again."
        )
    return content


def sample_image_bytes(root: Path, image: str) -> bytes:
    """Return the file content of a sample's image, by the name that `ShardSamples` gave it.

    Raises:
        DataError: see `read_member`.
    """
    shard, _, position = image.rpartition("@")
    offset, _, size = position.partition("+")
    folder = root.parent if root.is_file() else root
    return read_member(folder / shard, int(offset), int(size))


def _json(content: bytes, name: str) -> dict[str, Any]:
    try:
        item = parse(content, name)
    except ItemError as error:
        problem = str(error).removeprefix(f"{name}: ")
        raise ItemError(error.kind, f"{name}: its .json member cannot be read: {problem}") from None
    if not isinstance(item, dict):
        raise ItemError("not an object", f"{name}: expected an object with conversations.")
    return item


def _captioned(content: bytes, name: str) -> dict[str, Any]:
    try:
        text = content.decode("utf-8")
    except ValueError as error:
        raise ItemError("not UTF-8", f"{name}: its .txt member cannot be read ({shortened(str(error))}).") from None
    question = {"from": "human", "value": f"{IMAGE_MARK}\n{_CAPTION_QUESTION}"}
    return {"conversations": [question, {"from": "gpt", "value": text.strip()}]}
