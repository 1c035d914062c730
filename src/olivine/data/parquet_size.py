"""How large a Parquet file becomes when it is read, determined before it is read.

A value stored once and referenced many times, compressed zeros, or millions of empty rows can turn a few kilobytes into
gigabytes. Opening is in `parquet_files`.
"""

from pathlib import Path
from typing import Any

from olivine.errors import DataError

#: A file may expand to this many bytes, or this many times its size, whichever is more.
_FREE, _TIMES = 256 * 2**20, 100
_BATCH_ROWS = 16
#: The least bytes of a row as a Python object.
_ROW_BYTES = 128
#: The least bytes of a value by type, null or not; for a text, its offset.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "BYTE_ARRAY": 4}


def require_bounded(path: Path, file: Any) -> None:
    """Raise if a Parquet file would expand far beyond its size.

    The sizes in its metadata are summed; dictionary values count as often as they can be referenced, and if that is too
    much, the actual sizes are counted, a few rows at a time.

    Args:
        path: the file.
        file: the same, opened by pyarrow; its errors on a damaged file are raised unchanged.

    Raises:
        DataError: it would expand beyond the limit.
    """
    size = path.stat().st_size
    limit = max(_FREE, _TIMES * size)
    plain, suspected = _columns(path, file)
    if plain > limit:
        raise _too_much(path, size, plain)
    if suspected:
        _count(path, file, sorted(suspected), size, limit)


def _columns(path: Path, opened: Any) -> tuple[int, set[str]]:
    """Return (uncompressed bytes of all columns, columns whose dictionary may expand beyond the limit)."""
    metadata, schema = opened.metadata, opened.schema
    plain, expanded = metadata.num_rows * _ROW_BYTES, 0
    possible: dict[str, int] = {}
    with path.open("rb") as file:
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for position in range(row_group.num_columns):
                column = row_group.column(position)
                width = schema.column(position).length or _WIDTHS.get(column.physical_type, 8)
                plain += max(column.total_uncompressed_size, column.num_values * width)
                if column.has_dictionary_page and column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
                    file.seek(column.dictionary_page_offset)
                    dictionary = _page_size(file.read(32))
                    most = column.num_values * (column.total_uncompressed_size if dictionary is None else dictionary)
                    expanded += most
                    name = column.path_in_schema.split(".")[0]
                    possible[name] = possible.get(name, 0) + most
    limit = max(_FREE, _TIMES * path.stat().st_size)
    if plain + expanded <= limit:
        return plain, set()
    return plain, {name for name, most in possible.items() if most > limit // (4 * len(possible))}


def _page_size(header: bytes) -> int | None:
    """Return a page's uncompressed size: the second field of its header, in Thrift's compact protocol."""
    if not header.startswith(b"\x15"):
        return None
    _, behind = _varint(header, 1)
    if header[behind : behind + 1] != b"\x15":
        return None
    value, behind = _varint(header, behind + 1)
    return value >> 1 if behind <= len(header) else None  # zigzag; a size is never negative


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return a varint (seven bits per byte, lowest first) and the position after it."""
    value, shift = 0, 0
    for byte in content[position:]:
        value |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if not byte & 0x80:
            return value, position
    return value, len(content) + 1


def _count(path: Path, file: Any, columns: list[str], size: int, limit: int) -> None:
    found = 0
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
        found += batch.nbytes
        if found > limit:
            raise _too_much(path, size, found)


def _too_much(path: Path, size: int, found: int) -> DataError:
    return DataError(
        f"{path}: {size:,} bytes that become {found:,} or more when read; at most {_TIMES} times a file's size is "
        "accepted. Is it the right file? Write it again with plainly stored values."
    )
