"""Hugging Face's parquet copies of benchmarks: their shards found, rows read without images, images read by name.

What the columns mean is defined in each benchmark's file.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from olivine.data.images import decode_image
from olivine.data.parquet_files import open_parquet, python_rows, read_columns
from olivine.errors import DataError

#: `test-00000-of-00003.parquet`, or with a hash behind; in converted copies the split is the folder of `0000.parquet`.
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")
#: Folders that do not name a configuration.
_UNNAMED = ("", "data", "default")
#: Row groups of images cached at once: questions come in order, so that each group is read about once.
_HELD = 2


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """One row without its images (of which only the path is there), and its location.

    `number` counts in its file, `index` over all rows that were read with it.
    """

    values: Mapping[str, Any]
    split: str
    file: Path
    number: int
    index: int

    @property
    def where(self) -> str:
        """The row's location, for messages."""
        return f"{self.file}: row {self.number + 1}"


@dataclass(frozen=True, slots=True)
class ParquetLayout:
    """Where a benchmark's rows and images are in its Hugging Face copy.

    Attributes:
        splits: the splits that are questions, by name; the first that is there is read.
        image: the name of a row's image as its question has it; None where the row has no image.
        configs: the configurations (folders) to prefer where there are several; the first that is there is read.
        every_split: all of `splits` that are there are read, not the first alone.
        every_config: all configurations are read, not one.
        column: the column of images.
    """

    splits: tuple[str, ...]
    image: Callable[[ParquetRow], str | None]
    configs: tuple[str, ...] = ()
    every_split: bool = False
    every_config: bool = False
    column: str = "image"


def find_shards(path: Path, layout: ParquetLayout) -> dict[Path, str]:
    """Return the question shards at `path` (folder of a copy or of a config, or one shard) with their splits.

    Empty if there is no parquet at all.

    Raises:
        DataError: no split is one of the layout's, several configurations of which none is preferred, or a shard of a
            split is missing.
    """
    if path.suffix == ".parquet":
        return {path: _split_of(path)}
    by_config: dict[str, dict[Path, str]] = {}
    for file in _files_in(path):
        by_config.setdefault(_config_of(path, file), {})[file] = _split_of(file)
    if not by_config:
        return {}
    shards = _of_config(path, by_config, layout)
    splits = [split for split in layout.splits if split in shards.values()]
    if not splits:
        found = ", ".join(sorted(set(shards.values())))
        raise DataError(f"{path}: parquet of the splits {found}; expected {' or '.join(layout.splits)}.")
    selected = splits if layout.every_split else splits[:1]
    shards = {file: split for file, split in shards.items() if split in selected}
    _require_whole(shards)
    return shards


def _files_in(folder: Path) -> list[Path]:
    """No deeper than copies go: a folder above several copies is none itself."""
    converted = [file for file in folder.glob("*/*/*.parquet") if not _SHARD.fullmatch(file.name)]
    return sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet"), *converted])


def _split_of(file: Path) -> str:
    shard = _SHARD.fullmatch(file.name)
    return shard["split"] if shard else file.parent.name


def _config_of(root: Path, file: Path) -> str:
    folder = file.parent if _SHARD.fullmatch(file.name) else file.parent.parent
    config = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else ""
    return "" if config in (".", *_UNNAMED) else config


def _of_config(path: Path, by_config: Mapping[str, dict[Path, str]], layout: ParquetLayout) -> dict[Path, str]:
    if layout.every_config or len(by_config) == 1:
        return {file: split for shards in by_config.values() for file, split in shards.items()}
    preferred = [config for config in ("", *layout.configs) if config in by_config]
    if not preferred:
        raise DataError(f"{path}: parquet of several configurations ({', '.join(by_config)}). Name the folder of one.")
    return by_config[preferred[0]]


def _require_whole(shards: Mapping[Path, str]) -> None:
    there: dict[tuple[Path, str, int], int] = {}
    for file in shards:
        shard = _SHARD.fullmatch(file.name)
        if shard:
            key = (file.parent, shard["split"], int(shard["count"]))
            there[key] = there.get(key, 0) + 1
    for (folder, split, count), found in there.items():
        if found != count:
            raise DataError(f"{folder}: {found} of the {count} shards of {split}. Fetch the others too.")


def read_rows(shards: Mapping[Path, str]) -> list[ParquetRow]:
    """All rows of the shards, images left where they are (their `path` is read, their `bytes` are not).

    Raises:
        RequestError: pyarrow is not installed.
        DataError: a file is not parquet, cut short or damaged, or would become far more than it is.
    """
    rows: list[ParquetRow] = []
    for file, split in shards.items():
        opened = open_parquet(file)
        columns = [column for field in opened.schema_arrow for column in _without_bytes(field)]
        values_of_rows = python_rows(file, read_columns(file, opened, columns))
        rows += [ParquetRow(values, split, file, n, len(rows) + n) for n, values in enumerate(values_of_rows)]
    return rows


def _without_bytes(field: Any) -> list[str]:
    """Return the column paths to read for a field: of an image only its path, of a list of images nothing."""
    names = _fields_of(field.type)
    if names is not None:
        return [f"{field.name}.path"] if {"bytes", "path"} <= names else [field.name]
    of_list = _fields_of(field.type.value_type) if hasattr(field.type, "value_type") else None
    return [] if of_list is not None and {"bytes", "path"} <= of_list else [field.name]


def _fields_of(kind: Any) -> set[str] | None:
    import pyarrow as pa

    return {kind.field(number).name for number in range(kind.num_fields)} if pa.types.is_struct(kind) else None


class ParquetImages:
    """ImageSource out of parquet rows, by the names that a layout gives them; the first row of a name counts.

    Nothing is written: a row group's images are read when one of them is requested, and a few groups are cached.
    """

    def __init__(self, shards: Mapping[Path, str], layout: ParquetLayout) -> None:
        #: The files that hold them.
        self.files = tuple(shards)
        self._column = layout.column
        self._positions: dict[str, ParquetRow] = {}
        for row in read_rows(shards):
            name = layout.image(row)
            if name is not None:
                self._positions.setdefault(name, row)
        self._held: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def open(self, name: str) -> Image.Image:
        """Return the image of that name, in RGB.

        Raises:
            DataError: there is none, it is not in the file but elsewhere, or it is broken.
        """
        if name not in self._positions:
            raise DataError(f"image {name!r}: not in the parquet files.")
        row = self._positions[name]
        try:
            value = self._value(row)
        except UnicodeDecodeError as error:  # a path; the image's bytes are taken as they are
            raise DataError(f"{row.where}, column {self._column!r}: not readable ({error}).") from None
        if isinstance(value, list):  # a video's frames: the middle one, as LLaVA asks
            value = value[len(value) // 2] if value else None
        content = value.get("bytes") if isinstance(value, Mapping) else None
        if content is None:
            raise DataError(f"{row.where}: the image {name!r} is not in column {self._column!r}. Is the copy whole?")
        return decode_image(content, f"{name} ({row.where})")

    def _value(self, row: ParquetRow) -> Any:
        opened = open_parquet(row.file)
        first = 0
        for group in range(opened.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            if row.number < first + count:
                return self._group(row.file, group, opened)[row.number - first].as_py()
            first += count
        raise AssertionError("every row belongs to some group")

    def _group(self, file: Path, group: int, opened: Any) -> Any:
        key = (file, group)
        if key not in self._held:
            self._held[key] = read_columns(file, opened, [self._column], [group]).column(self._column)
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]
