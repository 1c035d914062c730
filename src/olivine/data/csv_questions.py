"""A user's table of questions (CSV: image, question, answer) as training data and held-out questions.

What is written is LLaVA JSON and the question file of the benchmark `exact-match`; images stay where they are.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olivine.contents import digest_of
from olivine.data.image_files import open_header, read_image_bytes
from olivine.data.images import find_image
from olivine.errors import DataError, RequestError
from olivine.files import atomic_folder, write_json, write_json_lines

COLUMNS = ("image", "question", "answer")
#: What recipes and `olivine evaluate` read.
TRAINING, QUESTIONS = "train.json", "questions.jsonl"
_MARK = "<image>"
#: Bad lines named in one message.
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `content` identifies the image by its bytes, whatever its name."""

    line: int
    image: str
    question: str
    answer: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """How many questions and distinct images were written for training, and held out."""

    training: int
    training_images: int
    held_out: int
    held_out_images: int


def convert(table: Path, images: Path, target: Path, *, held_out: int, seed: int = 0) -> Written:
    """Write `target`: train.json, and questions.jsonl with the held-out questions if there are any.

    Whole images are held out, drawn from the seed until at least `held_out` questions are; copies of an image under
    other names stay on its side. An image's questions are the turns of one item.

    Raises:
        DataError: the table cannot be read, or lines of it are bad; the message names them, and nothing is written.
        RequestError: the target exists, or holding out that many questions would leave none to train on.
    """
    if target.exists():
        raise RequestError(f"{target}: already exists. Give the name of a new folder, or remove it.")
    rows = read_rows(table, images)
    training, held = split(rows, held_out, seed)
    with atomic_folder(target) as folder:
        write_json(folder / TRAINING, list(_items(training)))
        if held:
            write_json_lines(folder / QUESTIONS, [_question(row) for row in held])
    counts = (len(training), len({row.content for row in training}), len(held), len({row.content for row in held}))
    return Written(*counts)


def read_rows(table: Path, images: Path) -> list[Row]:
    """Read and check a whole table.

    Raises:
        DataError: it is no UTF-8 CSV with these columns, or has bad lines: an empty or missing field, an image that is
            not below `images` or cannot be read, a question that is asked twice about one image.
    """
    if not images.is_dir():
        raise RequestError(f"--images {images}: folder not found.")
    rows: list[Row] = []
    problems: list[str] = []
    asked: dict[tuple[bytes, str], int] = {}
    for line, values in _lines(table):
        try:
            row = _row(line, values, images)
            earlier = asked.setdefault((row.content, row.question), line)
            if earlier != line:
                raise DataError(f"the same question about the same image as in line {earlier}.")
        except DataError as error:
            problems.append(f"  line {line}: {error}")
        else:
            rows.append(row)
    if problems:
        more = f"\n  and {len(problems) - _NAMED:,} more" if len(problems) > _NAMED else ""
        raise DataError(
            f"{table}: {len(problems):,} of {len(problems) + len(rows):,} rows are bad; nothing was written.\n"
            + "\n".join(problems[:_NAMED])
            + more
        )
    if not rows:
        raise DataError(f"{table}: has no rows below its header.")
    return rows


def split(rows: list[Row], held_out: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Return (training, held-out) rows in the table's order; no image is on both sides.

    Raises:
        RequestError: nothing would be left to train on.
    """
    contents = sorted({row.content for row in rows})
    counts = Counter(row.content for row in rows)
    taken: set[bytes] = set()
    count = 0
    for index in np.random.default_rng(seed).permutation(len(contents)):
        if count >= held_out:
            break
        taken.add(contents[index])
        count += counts[contents[index]]
    if len(taken) == len(contents):
        raise RequestError(
            f"--held-out {held_out}: the table has {len(rows):,} questions on {len(contents):,} images, so none would "
            "be left to train on. Hold out fewer."
        )
    return [row for row in rows if row.content not in taken], [row for row in rows if row.content in taken]


def _lines(table: Path) -> Iterator[tuple[int, dict[str | None, Any]]]:
    """Yield each row with the number of its last line in the file."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader: csv.DictReader[Any] = csv.DictReader(file, strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            _check_header(table, header)
            reader.fieldnames = header
            for values in reader:
                yield reader.line_num, values
    except UnicodeDecodeError:
        raise DataError(f"{table}: is not UTF-8. Save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{table}: line {reader.line_num}: not CSV ({error}).") from None
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error.strerror}).") from None


def _check_header(table: Path, header: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    other = [name for name in header if name not in COLUMNS]
    if missing or other or len(set(header)) != len(header):
        found = ", ".join(repr(name) for name in header) or "nothing"
        hint = " Separate columns with commas." if any(mark in name for name in header for mark in ";\t|") else ""
        raise DataError(f"{table}: its first line has {found}; expected the columns {', '.join(COLUMNS)}.{hint}")


def _row(line: int, values: dict[str | None, Any], images: Path) -> Row:
    if None in values:
        raise DataError("more fields than columns; put quotes around a text with commas.")
    texts = {name: (values[name] or "").strip() for name in COLUMNS}
    empty = [name for name in COLUMNS if not texts[name]]
    if empty:
        raise DataError(f"{', '.join(empty)}: empty.")
    for name in ("question", "answer"):
        if _MARK in texts[name]:
            raise DataError(f"{name}: contains {_MARK}, which stands for an image; it is placed for you.")
    content = read_image_bytes(find_image(images, texts["image"]))
    open_header(content, texts["image"])
    return Row(line, texts["image"], texts["question"], texts["answer"], digest_of(content))


def _items(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    for image, own in by_image.items():
        turns = []
        for number, row in enumerate(own):
            turns.append({"from": "human", "value": (f"{_MARK}\n" if number == 0 else "") + row.question})
            turns.append({"from": "gpt", "value": row.answer})
        yield {"id": f"line-{own[0].line}", "image": image, "conversations": turns}


def _question(row: Row) -> dict[str, Any]:
    return {"question_id": f"line-{row.line}", "image": row.image, "text": row.question, "answer": row.answer}
