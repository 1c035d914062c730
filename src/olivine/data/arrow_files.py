"""Opening Hugging Face datasets on disk: nothing outside the folder, nothing that expands without bound.

What the rows mean is in `huggingface`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olivine.data.item_error import shortened
from olivine.data.parquet_files import open_parquet
from olivine.errors import DataError, RequestError

_STATE, _DICT = "state.json", "dataset_dict.json"


def dataset_files(path: Path) -> list[Path]:
    """Return the files with a dataset's rows, sorted by name."""
    if path.is_file():
        return [path]
    return sorted(path.glob("*.parquet")) or sorted(path.glob("*.arrow"))


def open_rows(path: Path, images: Sequence[str]) -> Any:
    """Return a dataset's rows, memory-mapped, with the `images` columns as stored bytes.

    Raises:
        RequestError: the datasets library is not installed.
        DataError: there is no dataset, or it is damaged, reads outside its folder or would expand without bound.
    """
    try:
        import datasets
    except ImportError:
        raise RequestError("format: huggingface needs datasets. Install it: pip install 'olivine[datasets]'.") from None
    try:
        rows = _open(path, datasets)
        for name in set(images) & set(rows.column_names):
            undecoded = _undecoded(datasets, rows.features[name])
            if undecoded is not None:
                rows = rows.cast_column(name, undecoded)
    except (DataError, RequestError):
        raise
    except Exception as error:  # the library may raise anything on a damaged file
        cause = error.__cause__ or error
        raise DataError(
            f"{path}: the dataset cannot be read ({type(cause).__name__}: {shortened(str(cause), 200)}). "
            "Is a file cut short or damaged? Fetch or save it again."
        ) from None
    return rows


def _open(path: Path, datasets: Any) -> Any:
    if (path / _STATE).is_file():
        _require_own_files(path)
        return datasets.load_from_disk(str(path))
    files = [file for file in dataset_files(path) if file.suffix == ".parquet"]
    if not files:
        raise DataError(_nothing_there(path))
    for file in files:
        open_parquet(file).close()
    # Converted once to Arrow, which can be memory-mapped, in the library's own cache.
    return datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")


def _nothing_there(path: Path) -> str:
    """Return the message for a folder without rows: which subfolders have some, if the layout is known."""
    if (path / _DICT).is_file():
        splits = sorted(file.parent.name for file in path.glob(f"*/{_STATE}"))
        return (
            f"{path}: holds several splits (a DatasetDict): {', '.join(splits)}. Name one: path: {path / splits[0]}"
            if splits
            else (f"{path}: a DatasetDict without any split.")
        )
    below = sorted({str(file.parent) for file in path.glob("*/*.parquet")})
    if below:
        return f"{path}: no rows in this folder, but Parquet files below it. Name one: path: {' or '.join(below[:5])}"
    return f"{path}: there is no Hugging Face dataset. Expected what save_to_disk writes, or *.parquet."


def _require_own_files(path: Path) -> None:
    """Raise if a dataset's description names files outside its folder, or files that do not exist.

    Raises:
        DataError: such a name, or a description that is not JSON.
    """
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        files = [str(entry["filename"]) for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise DataError(f"{path / _STATE}: not what save_to_disk writes ({shortened(repr(error))}).") from None
    for name in files:
        if not name or Path(name).name != name or "\\" in name or "\0" in name or name in (".", ".."):
            raise DataError(
                f"{path / _STATE}: names the file {shortened(repr(name))}; expected a file in the same folder."
            )
        if not (path / name).is_file():
            raise DataError(f"{path}: {name}, which {_STATE} names, is not there. Save or fetch the dataset again.")


def _undecoded(datasets: Any, feature: Any) -> Any:
    """Return the image column's feature without decoding: images are opened by one function for all formats.

    None if the column needs no cast: a struct of bytes and path, bytes, or text.
    """
    image = datasets.Image(decode=False)
    if isinstance(feature, datasets.Image):
        return image
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    return datasets.List(image) if isinstance(inner, datasets.Image) else None
