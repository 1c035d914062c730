"""Hugging Face datasets on disk as samples: Arrow as `save_to_disk` writes it, or a folder of Parquet files.

Rows stay in the files, which are mapped into memory; one is read when it is asked for. What a conversation may look
like is in `llava_json`; what a broken sample does is its source's policy.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from olivine.data.lazy_samples import LazySamples
from olivine.data.llava_json import IMAGE_MARK, ItemError, parse_item
from olivine.errors import DataError, RequestError
from olivine.records import Sample

_STATE = "state.json"
#: Columns that may hold a picture, the first there is.
_PICTURES = ("image", "images", "jpg", "png")


class DatasetSamples(LazySamples):
    """The rows of a dataset: LLaVA's `conversations`, or `texts` of `user` and `assistant` (The Cauldron's), and one
    picture at most in `image` or `images`, as the library's own image type keeps it.

    Raises:
        RequestError: the datasets library is not installed.
        DataError: neither layout is there, or it has no column of conversations.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = _open(path)
        columns = set(self._rows.column_names)
        if not columns & {"conversations", "texts"}:
            raise DataError(
                f"{path}: no column of conversations. Expected conversations (LLaVA's) or texts (user, assistant); "
                f"there are {', '.join(sorted(columns))}."
            )
        self._picture = next((name for name in _PICTURES if name in columns), None)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Sample:
        """One sample.

        Raises:
            ItemError: what is wrong with it, with its row.
        """
        row = dict(self._rows[index])
        has_picture = bool(_stored(row, self._picture)) if self._picture else False
        said = row.get("conversations") or _from_texts(row.get("texts"), index, has_picture=has_picture)
        name = row.get("id")
        item = {"id": str(index) if name is None else name, "conversations": said}
        return parse_item({**item, **({"image": str(index)} if has_picture else {})}, index)

    def picture(self, image: str) -> bytes:
        """The file content of a sample's picture, from the name it was given above.

        Raises:
            DataError: the row has only a path to it, and not the picture.
        """
        assert self._picture is not None, "no row has a picture"
        content: bytes | None = _stored(self._rows[int(image)], self._picture)["bytes"]
        if content is None:
            raise DataError(
                f"{self._path}, row {image}: names a picture but does not hold it. Save the dataset with its pictures "
                "(embed_external_files)."
            )
        return content

    def fingerprint(self) -> str:
        """A hash of the files' names and sizes and of the number of rows, in hexadecimal."""
        files = sorted(self._path.glob("*.parquet")) or sorted(self._path.glob("*.arrow"))
        told = [f"{file.name} {file.stat().st_size}" for file in files]
        return hashlib.sha256("\n".join([str(len(self)), *told]).encode()).hexdigest()


@lru_cache(maxsize=8)
def opened(path: Path) -> DatasetSamples:
    """The dataset in a folder, opened once in a process."""
    return DatasetSamples(path)


def _open(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise RequestError("format: huggingface needs datasets. Install it: pip install 'olivine[datasets]'.") from None
    parquet = sorted(str(file) for file in path.glob("*.parquet"))
    if (path / _STATE).is_file():
        rows = datasets.load_from_disk(str(path))
    elif parquet:
        # Turned once into Arrow, which can be mapped, in the library's own cache.
        rows = datasets.load_dataset("parquet", data_files=parquet, split="train")
    else:
        raise DataError(f"{path}: no Hugging Face dataset there. Expected what save_to_disk writes, or *.parquet.")
    for name in set(_PICTURES) & set(rows.column_names):
        rows = rows.cast_column(name, _undecoded(datasets, rows.features[name]))
    return rows


def _undecoded(datasets: Any, feature: Any) -> Any:
    """The same picture column, handed over as the bytes that are stored: they are opened where all pictures are."""
    picture = datasets.Image(decode=False)
    return picture if isinstance(feature, datasets.Image) else datasets.List(picture)


def _stored(row: dict[str, Any], column: str) -> Any:
    """The picture of a row: the cell itself, or the only one of its list."""
    cell = row[column]
    if isinstance(cell, list):
        if len(cell) > 1:
            raise ItemError("several images", f"row with {len(cell)} pictures: expected one at most.")
        return cell[0] if cell else None
    return cell


def _from_texts(texts: Any, index: int, *, has_picture: bool) -> list[dict[str, str]]:
    if not isinstance(texts, list) or not texts:
        raise ItemError("no conversation", f"row {index}: neither conversations nor texts.")
    said = []
    for number, turn in enumerate(texts):
        mark = f"{IMAGE_MARK}\n" if has_picture and not number else ""
        said += [
            {"from": "human", "value": mark + str(turn.get("user", ""))},
            {"from": "gpt", "value": str(turn.get("assistant", ""))},
        ]
    return said
