"""Parquet files, opened and read: bounded before anything is, and what is damaged named by file, column and rows.

How much a file may become is in `parquet_size`; what rows mean is their readers' rule.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from olivine.data.parquet_size import require_bounded
from olivine.errors import DataError, RequestError
from olivine.files import unreadable


def open_parquet(path: Path) -> Any:
    """Open a Parquet file as pyarrow's `ParquetFile`, mapped into memory.

    Raises:
        RequestError: pyarrow is not installed.
        DataError: the file is missing, is no whole Parquet file, or would become far more than it is.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise RequestError(f"{path}: Parquet needs pyarrow. Install it: pip install 'olivine[parquet]'.") from None
    try:
        state = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        _require_bounded_once(path, state.st_size, state.st_mtime_ns)
        return parquet.ParquetFile(path, memory_map=True)
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({_reason(error)}). Fetch or write it again.") from None


def read_columns(path: Path, file: Any, columns: Sequence[str], groups: Sequence[int] | None = None) -> Any:
    """Read columns of an opened file as a pyarrow `Table`, of all row groups or of some.

    Raises:
        DataError: what is stored there is damaged, with the column and the rows.
    """
    selected = range(file.num_row_groups) if groups is None else groups
    try:
        return file.read_row_groups(list(selected), columns=list(columns))
    except (OSError, ValueError, MemoryError) as error:
        where = _damaged_part(file, columns, selected)
        raise DataError(f"{path}: {where} cannot be read ({_reason(error)}). Fetch or write it again.") from None


def python_rows(path: Path, table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table that was read from `path`, from its first row on, as Python values.

    Raises:
        DataError: a value that Python cannot hold (text that is not UTF-8, a date without a year), with row and column.
    """
    try:
        return table.to_pylist()
    except (ValueError, OverflowError) as error:
        for name, values in zip(table.column_names, table.columns, strict=True):
            for number, value in enumerate(values, start=1):
                try:
                    value.as_py()
                except (ValueError, OverflowError) as found:
                    raise DataError(
                        f"{path}: row {number}, column {name!r}: not readable ({_reason(found)})."
                    ) from None
        raise DataError(f"{path}: a value is not readable ({_reason(error)}).") from None


@lru_cache(maxsize=4096)
def _require_bounded_once(path: Path, _size: int, _changed: int) -> None:
    """Values may have to be counted, which is done once for a file that is opened often."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        require_bounded(path, file)


def _damaged_part(file: Any, columns: Sequence[str], groups: Sequence[int]) -> str:
    for group in groups:
        for column in columns:
            try:
                file.read_row_group(group, columns=[column])
            except (OSError, ValueError, MemoryError):
                before = sum(file.metadata.row_group(number).num_rows for number in range(group))
                rows = file.metadata.row_group(group).num_rows
                return f"column {column!r} in rows {before + 1} to {before + rows}"
    return f"columns {', '.join(columns)}"


def _reason(error: Exception) -> str:
    return (str(error).split("\n")[0] or type(error).__name__)[:160]
