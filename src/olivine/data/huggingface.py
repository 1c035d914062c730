"""Hugging Face datasets on disk as samples: Arrow as `save_to_disk` writes it, or a folder of Parquet files.

Rows stay in the files, which are memory-mapped; a row is read when requested. Opening is in `arrow_files`; what a
conversation may look like is in `llava_json`; what happens to a broken sample is its source's policy.
"""

import hashlib
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from olivine.data.arrow_files import dataset_files, open_rows
from olivine.data.item_error import ItemError, shortened
from olivine.data.lazy_samples import LazySamples
from olivine.data.llava_json import IMAGE_MARK, parse_item
from olivine.errors import DataError
from olivine.records import MarkRule, Sample

#: Columns that may hold an image; the first one present is used.
_IMAGES = ("image", "images", "jpg", "png")
_CONVERSATIONS = ("conversations", "messages", "texts")
#: Columns whose inputs would be ignored.
_UNREAD_INPUTS = ("video", "videos", "audio", "audios")


class DatasetSamples(LazySamples):
    """The rows of a dataset as samples.

    Read are `conversations` (LLaVA's), `messages` (OpenAI's, TRL's) or `texts` of `user` and `assistant` (The
    Cauldron's), and images in `image` or `images`, one or a list: as the library's own image type, as bytes, or as a
    struct of bytes and path. Since an id may occur twice, it is followed by the row's number: `id#number`.

    Raises:
        RequestError: the datasets library is not installed.
        DataError: there is neither layout, or no column of conversations.
    """

    def __init__(self, path: Path, marks: MarkRule = "front") -> None:
        self._path = path
        self._marks = marks
        self._rows = open_rows(path, _IMAGES)
        columns = set(self._rows.column_names)
        if not columns & set(_CONVERSATIONS):
            raise DataError(
                f"{path}: no column of conversations. Expected conversations (LLaVA's), messages (role, content) or "
                f"texts (user, assistant); found {', '.join(sorted(columns))}."
            )
        unread_inputs = sorted(columns & set(_UNREAD_INPUTS))
        if unread_inputs:
            raise DataError(
                f"{path}: column {', '.join(unread_inputs)} is not read, so training would be blind to it. "
                "Remove it from the dataset (remove_columns) if that is intended."
            )
        self._image = next((name for name in _IMAGES if name in columns), None)
        self._extra = tuple(name for name in _IMAGES if name in columns and name != self._image)
        self._unread = columns - {*_IMAGES, *_CONVERSATIONS, "id"}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def unread(self) -> Counter[str]:
        """Columns that nothing reads."""
        return Counter({f"column {name}": len(self) for name in self._unread})

    def read(self, index: int, unread: Counter[str] | None = None) -> Sample:
        """Return one sample.

        Raises:
            ItemError: what is wrong with it, naming its row.
        """
        row = self._row(index)
        name = f"row {index}"
        count = len(self._stored(row, name)) if self._image else 0
        if any(row[column] for column in self._extra):
            raise ItemError("images named twice", f"{name}: images in {self._image} and {', '.join(self._extra)}.")
        turns = row.get("conversations") or row.get("messages")
        turns = _as_list(turns) if turns else _from_texts(row.get("texts"), index, count)
        own = row.get("id")
        item = {"id": str(index) if own is None else own, "conversations": _without_nulls(turns)}
        named = [str(index)] if count == 1 else [f"{index}:{position}" for position in range(count)]
        sample = parse_item({**item, "images": named} if named else item, index, unread, marks=self._marks)
        return sample if own is None else replace(sample, id=f"{sample.id}#{index}")

    def image(self, image: str) -> bytes:
        """Return the file content of a sample's image, by the name that `read` gave it.

        Raises:
            DataError: the row has only a path, not the image.
        """
        assert self._image is not None, "no row has an image"
        name = f"row {image}"
        row, _, position = image.partition(":")
        stored = self._stored(self._row(int(row)), name)[int(position or 0)]
        content = stored.get("bytes") if isinstance(stored, dict) else stored
        if not isinstance(content, bytes):
            raise DataError(
                f"{self._path}, {name}: names an image but does not contain it. Save the dataset with its images "
                "(embed_external_files)."
            )
        return content

    def fingerprint(self) -> str:
        """Return a hash of the files' names and sizes and of the number of rows, in hexadecimal."""
        described = [f"{file.name} {file.stat().st_size}" for file in dataset_files(self._path)]
        return hashlib.sha256("\n".join([str(len(self)), *described]).encode()).hexdigest()

    def _row(self, index: int) -> dict[str, Any]:
        try:
            return dict(self._rows[index])
        except Exception as error:  # Arrow's readers may raise anything on a damaged file
            raise ItemError("unreadable row", f"row {index}: cannot be read ({shortened(str(error))}).") from None

    def _stored(self, row: dict[str, Any], name: str) -> list[Any]:
        """Return the images of a row: the cell itself, or the entries of its list."""
        assert self._image is not None, "called only for rows that have the column"
        cell = row[self._image]
        cells = [one for one in (cell if isinstance(cell, list) else [cell]) if one]
        if any(isinstance(one, str) for one in cells):
            raise ItemError(
                "image is a path",
                f"{name}: column {self._image!r} holds a path as text. Store the images themselves "
                f"(cast_column({self._image!r}, datasets.Image()), then save), or write LLaVA JSON with images: DIR.",
            )
        return cells


@lru_cache(maxsize=8)
def opened(path: Path, marks: MarkRule = "front") -> DatasetSamples:
    """Return the dataset in a folder, opened once per process and rule for marks."""
    return DatasetSamples(path, marks)


def _as_list(turns: Any) -> Any:
    """Return turns as a list of dicts, also those that older versions of the library keep as a dict of lists."""
    if not isinstance(turns, dict) or not all(isinstance(values, list) for values in turns.values()):
        return turns
    if len({len(values) for values in turns.values()}) != 1:
        return []
    return [dict(zip(turns, turn, strict=True)) for turn in zip(*turns.values(), strict=True)]


def _without_nulls(turns: Any) -> Any:
    """Return turns without the keys that Arrow fills in with nulls."""
    if not isinstance(turns, list):
        return turns
    return [
        {key: value for key, value in turn.items() if value is not None} if isinstance(turn, dict) else turn
        for turn in turns
    ]


def _from_texts(texts: Any, index: int, images: int) -> list[dict[str, Any]]:
    if not isinstance(texts, list) or not texts:
        raise ItemError("no conversation", f"row {index}: no turn in conversations, messages or texts.")
    turns: list[dict[str, Any]] = []
    for number, turn in enumerate(texts):
        user, assistant = (turn.get("user"), turn.get("assistant")) if isinstance(turn, dict) else (None, None)
        if not isinstance(user, str) or not isinstance(assistant, str):
            raise ItemError(
                "turn is no text", f"row {index}, turn {number + 1}: expected texts under 'user' and 'assistant'."
            )
        mark = "" if number else f"{IMAGE_MARK}\n" * images
        turns += [{"from": "human", "value": mark + user}, {"from": "gpt", "value": assistant}]
    return turns
