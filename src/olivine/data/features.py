"""A frozen tower's features of a source's pictures, on disk: written once, read by every training that shows them.

The tower is run in `train.features`; whether the room on disk is well spent is for `ablate.feature_cache` to say.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from olivine.data.llava_json import ItemError
from olivine.errors import DataError
from olivine.files import append_json_line, cut_json_lines, flush_to_disk, read_json, read_json_lines, write_json

#: Rows `[patches, width]`, one after another as they lie in memory; and what they are, written when all are there.
FEATURES, CONTENTS = "features.bin", "features.json"
_PARTIAL, _BROKEN = "features.bin.partial", "broken.jsonl"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


#: Turns pictures, by their names, into `[pictures, patches, width]`; and says what is wrong with the broken ones among
#: them, whose rows may be anything.
Encode = Callable[[Sequence[str]], tuple[Tensor, Mapping[str, ItemError]]]


class FeatureTable:
    """Features by the names of pictures, mapped into memory: only rows that are asked for are read.

    Raises:
        DataError: the folder holds no whole table.
    """

    def __init__(self, folder: Path) -> None:
        values = read_json(folder / CONTENTS)
        names, (patches, width) = values["names"], values["shape"]
        dtype, size = _DTYPES[values["dtype"]], len(names) * patches * width
        path = folder / FEATURES
        if not path.is_file() or path.stat().st_size != size * dtype.itemsize:
            raise DataError(f"{path}: expected {size * dtype.itemsize:,} bytes. Remove {folder} to have it made anew.")
        self._rows = torch.from_file(str(path), shared=False, size=size, dtype=dtype).view(-1, patches, width)
        self._place = {name: place for place, name in enumerate(names)}
        self._broken: dict[str, list[str]] = values["broken"]

    def __len__(self) -> int:
        return len(self._place)

    def of(self, name: str) -> Tensor:
        """A picture's features, `[patches, width]`.

        Raises:
            ItemError: what was wrong with the picture when the table was made.
        """
        if name in self._broken:
            raise ItemError(*self._broken[name])
        if name not in self._place:
            raise ItemError("no features", f"{name}: not among the pictures whose features were kept.")
        return self._rows[self._place[name]]


def write_features(
    folder: Path,
    names: Sequence[str],
    encode: Encode,
    *,
    shape: tuple[int, int],
    dtype: torch.dtype,
    chunk: int,
    on_pictures: Callable[[int, int], None],
) -> None:
    """Write a table of the named pictures; killed at any instant, it goes on behind the last whole chunk.

    Args:
        folder: where the table goes.
        names: the pictures, each once, in order.
        encode: is given `chunk` names at a time (fewer at the end), so that a chunk's bits hang on nothing before it.
        shape: a row's (patches, width).
        dtype: a row's type, float32 or bfloat16.
        on_pictures: told (done, in all) after every chunk.

    Raises:
        OSError: the disk is full; what was written stays, and the next call goes on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial, notes = folder / _PARTIAL, folder / _BROKEN
    row_bytes = shape[0] * shape[1] * dtype.itemsize
    written = partial.stat().st_size if partial.is_file() else 0
    done = min(written // (row_bytes * chunk) * chunk, len(names))
    if notes.is_file():
        cut_json_lines(notes, lambda row: row["place"] < done)
    with partial.open("ab") as file:
        file.truncate(done * row_bytes)
        for start in range(done, len(names), chunk):
            asked = names[start : start + chunk]
            features, broken = encode(asked)
            for place, name in enumerate(asked, start):
                if name in broken:
                    kind, message = broken[name].kind, str(broken[name])
                    append_json_line(notes, {"place": place, "name": name, "kind": kind, "message": message})
            file.write(features.to(dtype).contiguous().view(torch.uint8).numpy().tobytes())
            file.flush()
            on_pictures(start + len(asked), len(names))
    flush_to_disk(partial)
    partial.rename(folder / FEATURES)
    rows = read_json_lines(notes) if notes.is_file() else []
    broken_ones = {row["name"]: [row["kind"], row["message"]] for row in rows}
    kind_of = next(name for name, value in _DTYPES.items() if value == dtype)
    write_json(folder / CONTENTS, {"names": list(names), "broken": broken_ones, "shape": list(shape), "dtype": kind_of})
    notes.unlink(missing_ok=True)
