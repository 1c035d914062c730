"""A frozen tower's features of a source's images, on disk: written once, read by every training that uses them.

The tower is run in `training.features`; whether caching is worth the disk space is decided in `ablation.feature_cache`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from olivine.data.llava_json import ItemError
from olivine.errors import DataError
from olivine.files import append_json_line, flush_to_disk, keep_json_lines, read_json, read_json_lines, write_json

#: Rows `[patches, width]`, one after another as they are in memory; and their description, written last.
FEATURES, CONTENTS = "features.bin", "features.json"
_PARTIAL, _BROKEN = "features.bin.partial", "broken.jsonl"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: NumPy has no bfloat16: its bits are read as integers, and reinterpreted as tensors.
_STORED: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


#: Encodes images, by their names, as `[images, patches, width]`; and returns what is wrong with the broken ones among
#: them, whose rows may hold anything.
Encode = Callable[[Sequence[str]], tuple[Tensor, Mapping[str, ItemError]]]


class FeatureTable:
    """Memory-mapped features by the names of images: only requested rows are read.

    Raises:
        DataError: the folder has no complete table.
    """

    def __init__(self, folder: Path) -> None:
        values = read_json(folder / CONTENTS)
        names, (patches, width) = values["names"], values["shape"]
        self._dtype, stored = _DTYPES[values["dtype"]], _STORED[values["dtype"]]
        path, size = folder / FEATURES, len(names) * patches * width * stored.itemsize
        if not path.is_file() or path.stat().st_size != size:
            raise DataError(f"{path}: expected {size:,} bytes. Remove {folder} to have it regenerated.")
        # Read-only: all of a writable private mapping would count against memory.
        self._rows = np.memmap(path, stored, mode="r", shape=(len(names), patches, width))
        self._position = {name: position for position, name in enumerate(names)}
        self._broken: dict[str, list[str]] = values["broken"]

    def __len__(self) -> int:
        return len(self._position)

    def position(self, name: str) -> int:
        """Return an image's row.

        Raises:
            ItemError: what was wrong with the image when the table was written.
        """
        if name in self._broken:
            raise ItemError(*self._broken[name])
        if name not in self._position:
            raise ItemError("no features", f"{name}: not among the images with cached features.")
        return self._position[name]

    def rows(self, positions: Sequence[int]) -> Tensor:
        """Return the features of some rows, `[rows, patches, width]`, in the given order."""
        # Fancy indexing copies in NumPy: no torch work in the thread that prepares batches.
        return torch.from_numpy(self._rows[np.asarray(positions)]).view(self._dtype)


def write_features(
    folder: Path,
    names: Sequence[str],
    encode: Encode,
    *,
    shape: tuple[int, int],
    dtype: torch.dtype,
    chunk: int,
    on_images: Callable[[int, int], None],
) -> None:
    """Write a table of the named images; if killed, it resumes after the last complete chunk.

    Args:
        folder: where the table goes.
        names: the images, each once, in order.
        encode: called with `chunk` names at a time (fewer at the end), so that a chunk's bits depend on nothing before.
        shape: a row's (patches, width).
        dtype: a row's type, float32 or bfloat16.
        on_images: called with (done, total) after every chunk.

    Raises:
        OSError: the disk is full; what was written is kept, and the next call resumes from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial, notes = folder / _PARTIAL, folder / _BROKEN
    row_bytes = shape[0] * shape[1] * dtype.itemsize
    if (folder / FEATURES).is_file():  # it is renamed when complete: only its description is missing
        partial = folder / FEATURES
    written = partial.stat().st_size if partial.is_file() else 0
    done = len(names) if written == len(names) * row_bytes else written // (row_bytes * chunk) * chunk
    if notes.is_file() and keep_json_lines(notes, lambda row: row["place"] < done):
        done = 0  # which image a damaged note named is not known
        notes.unlink()
    with partial.open("r+b" if partial.is_file() else "wb") as file:
        # By offset and not by appending: any other process writing here writes the same bytes.
        file.seek(done * row_bytes)
        for start in range(done, len(names), chunk):
            requested = names[start : start + chunk]
            features, broken = encode(requested)
            for position, name in enumerate(requested, start):
                if name in broken:
                    kind, message = broken[name].kind, str(broken[name])
                    append_json_line(notes, {"place": position, "name": name, "kind": kind, "message": message})
            file.write(features.to(dtype).contiguous().view(torch.uint8).numpy().tobytes())
            file.flush()
            on_images(start + len(requested), len(names))
        file.truncate(len(names) * row_bytes)
    flush_to_disk(partial)
    partial.rename(folder / FEATURES)
    rows = read_json_lines(notes) if notes.is_file() else []
    broken_ones = {row["name"]: [row["kind"], row["message"]] for row in rows}
    kind_of = next(name for name, value in _DTYPES.items() if value == dtype)
    write_json(folder / CONTENTS, {"names": list(names), "broken": broken_ones, "shape": list(shape), "dtype": kind_of})
    notes.unlink(missing_ok=True)
