"""What several benchmarks share: reading their files, option letters, yes/no words, means.

Rules of single benchmarks are in their files; the VQA answer normaliser is in `vqa_normaliser`.
"""

import base64
import binascii
import csv
import json
import re
import string
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from olivine.errors import DataError
from olivine.evaluation.answers import from_row
from olivine.evaluation.benchmarks.vqa_normaliser import strip_punctuation
from olivine.files import atomic_file, read_json, read_json_lines
from olivine.records import Answer, Item, ItemState, Question

_Group = TypeVar("_Group", str, int)

#: Names of the options in order: the first is A.
LETTERS = string.ascii_uppercase

#: Replies that VLMEvalKit takes as a refusal wherever they occur (vlmeval/utils/matching_util.py).
_REFUSALS = (
    "Failed to obtain answer via API",
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


@dataclass(frozen=True, slots=True)
class Prediction(Answer):
    """An entry of an official predictions file: under the official scoring it is compared unchanged.

    A model's own words are an `Answer`, and are first converted as the model's authors convert them.
    """


# Means


def fraction(values: Sequence[float]) -> float:
    """Return the mean, 0 for no values (as GQA's tool defines it)."""
    return sum(values) / len(values) if values else 0.0


def percent(values: Sequence[float]) -> float:
    """Return a hundred times the mean, 0 for no values."""
    return 100 * fraction(values)


def by_group(
    prefix: str, scored: Iterable[tuple[_Group, float]], mean: Callable[[Sequence[float]], float] = percent
) -> dict[str, float]:
    """`{"PREFIX/GROUP": mean}` of (group, value) pairs, groups in ascending order."""
    groups: dict[_Group, list[float]] = defaultdict(list)
    for group, value in scored:
        groups[group].append(value)
    return {f"{prefix}/{group}": mean(groups[group]) for group in sorted(groups)}


def graded(
    questions: Sequence[Question], texts: Mapping[str, str], right: Callable[[str, Question], bool | None]
) -> tuple[Item, ...]:
    """One item a question: `right(answer, question)`, None for unread, which is wrong, as is a missing answer."""
    items = []
    for question in questions:
        verdict = right(texts[question.id], question) if question.id in texts else None
        items.append(item_of(question, texts, float(bool(verdict)), read=verdict is not None))
    return tuple(items)


def item_of(question: Question, texts: Mapping[str, str], correct: float, *, read: bool) -> Item:
    """Return a question's item, given whether its answer, if there is one, could be read."""
    answered = ItemState.READ if read else ItemState.UNREAD
    state = answered if question.id in texts else ItemState.MISSING
    return Item(question.id, question.cluster, correct, state)


def agrees(said: str | None, gold: str, possible: Collection[str] | None = None) -> bool | None:
    """Return whether what a rule read equals the gold answer; None if it read nothing, or nothing `possible`."""
    return None if said is None or (possible is not None and said not in possible) else said == gold


def is_reply(said: str, references: Iterable[str]) -> bool:
    """Return whether a short text can be an answer: not blank, and yes or no where only those are right."""
    plain = said.strip().casefold()
    if plain in ("", "yes", "no"):
        return bool(plain)
    return not all(reference.strip().casefold() in ("yes", "no") for reference in references)


def by_detail(
    name: str,
    questions: Sequence[Question],
    items: Sequence[Item],
    mean: Callable[[Sequence[float]], float] = percent,
) -> dict[str, float]:
    """Return `{"NAME/GROUP": mean}` of items grouped by their question's detail `name`; empty details are omitted."""
    scored = ((question.details[name], item.correct) for question, item in zip(questions, items, strict=True))
    return by_group(name, ((group, correct) for group, correct in scored if group not in (None, "")), mean)


# What the official tools refuse


def require_human_answers(name: str, questions: Iterable[Question]) -> None:
    """Refuse questions without human answers, which can be asked but not scored.

    Raises:
        DataError: there is one.
    """
    for question in questions:
        if not question.references:
            raise DataError(f"{name}: question {question.id!r} has no human answers (a test split?).")


# Files


def read_rows(path: Path) -> Any:
    """Read a JSON file, or JSON lines as a list of objects; the first line decides which.

    Raises:
        DataError: missing, cut short, or not JSON.
    """
    return read_json_lines(path) if _starts_with_an_object(path) else read_json(path)


def read_lines(path: Path) -> list[str]:
    """Return the non-blank lines of a text file, without line ends.

    Raises:
        DataError: the file cannot be read as UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}).") from None
    return [line for line in text.split("\n") if line.strip()]


def read_table(path: Path, delimiter: str) -> list[dict[str, str]]:
    """Return the rows of a table with a header line (CSV or TSV), cells as text, missing ones empty.

    Raises:
        DataError: the file cannot be read, or a row is longer than the header.
    """
    limit = csv.field_size_limit(2**31 - 1)  # cells contain images, far above the default of 128 kB
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, restval="")
            rows = list(reader)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table in UTF-8 text ({error}).") from None
    finally:
        csv.field_size_limit(limit)
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise DataError(f"{path}: row {number} has more cells than the header. Is the file cut or re-saved?")
    return rows


def unpack_images(table: Path, folder: Path) -> int:
    """Write the images that a TSV holds in base64 to `FOLDER/INDEX.jpg`; how many there were.

    MMBench and MMStar publish their images so. A cell that names another row's index holds no image.

    Raises:
        DataError: no `index` and `image` columns, or a cell that is not base64.
    """
    count = 0
    for number, row in enumerate(read_table(table, "\t"), start=1):
        require_keys(row, ("index", "image"), f"{table}: row {number}")
        if row["image"].isdigit() or not row["image"]:
            continue
        try:
            image = base64.b64decode(row["image"], validate=True)
        except binascii.Error:
            raise DataError(f"{table}: row {number}: the image is not base64. Is the file cut?") from None
        with atomic_file(folder / f"{row['index']}.jpg") as temporary:
            temporary.write_bytes(image)
        count += 1
    return count


def find_file(path: Path, names: Sequence[str], what: str) -> Path:
    """`path` if it is not a folder, else the first of `names` in it.

    Raises:
        DataError: the folder has none of them.
    """
    if not path.is_dir():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path}: no {what} in this folder. Expected {' or '.join(names)}.")


def rows_have(rows: Any, *keys: str) -> bool:
    """Whether `rows` is a list of objects of which the first holds `keys`: how a file format is recognised."""
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], Mapping) and set(keys) <= rows[0].keys()


def require_keys(row: Any, keys: Iterable[str], where: str) -> None:
    """Check that `row` is an object that holds `keys`.

    Raises:
        DataError: it does not; the message starts with `where`.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is not an object (it is a {type(row).__name__}). Is this file of this benchmark?")
    missing = [key for key in keys if key not in row]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}. Is this file of this benchmark?")


def answers_from(rows: Iterable[Any], id_key: str, text_key: str, where: str) -> list[Answer]:
    """Answers out of rows that name their question under `id_key` and hold the text under `text_key`.

    Raises:
        DataError: a row without them, or whose text is not a string.
    """
    answers = []
    for number, row in enumerate(rows, start=1):
        require_keys(row, (id_key, text_key), f"{where}: answer {number}")
        if not isinstance(row[text_key], str):
            raise DataError(f"{where}: answer {number}: {text_key} is a {type(row[text_key]).__name__}, not text.")
        answers.append(from_row({"question_id": row[id_key], "text": row[text_key]}))
    return answers


def _starts_with_an_object(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = json.loads(next((line for line in file if line.strip()), ""))
            more = any(line.strip() for line in file)
    except (OSError, ValueError):
        return False
    # One object on the only line is a whole document, unless it is an answer.
    return isinstance(first, dict) and (more or not first.keys().isdisjoint(("question_id", "question")))


# Options


def named_option(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer names, `None` if it names none.

    Our own rule, stricter than peers': the answer is a letter, with or without a bracket, or begins with a letter
    and a mark (`B. ...`, `(b) ...`), or says "answer is B", or is one option's text. A letter with another word
    after it is a word ("A man ..."). Case is ignored.
    """
    names = LETTERS[: len(choices)]
    found = re.match(r"\s*[(\[]?([A-Za-z])(?:[)\].:,]|\s*$)", text) or re.search(
        r"\banswer(?: is)?:?\s*\(?([A-Za-z])(?:[).:,]|\s*$)", text, re.IGNORECASE
    )
    if found and found[1].upper() in names:
        return found[1].upper()
    plain = text.strip().rstrip(".").casefold()
    matching = [name for name, choice in zip(names, choices, strict=True) if choice.strip().casefold() == plain]
    return matching[0] if len(matching) == 1 else None


def vlmevalkit_option(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the option letter that VLMEvalKit infers without its judge, `None` if it would ask the judge or give up.

    `choices` maps letters to texts. Marks become spaces; exactly one option letter must then occur as a word, and
    its first occurrence among the last four (the source compares `position > words - 5`). Failing that, exactly one
    option's text must occur in the answer, unless the answer is more than twice as long as all options together
    (`open-compass/VLMEvalKit:vlmeval/utils/matching_util.py`).
    """
    if any(refusal in text for refusal in _REFUSALS):
        return None
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    present = [letter for letter in choices if letter in words]
    if len(present) == 1 and words.index(present[0]) > len(words) - 5:
        return present[0]
    if not present and "Z" in words:  # its name for "none of them"
        return None
    if len(text) > 2 * sum(len(choice) for choice in choices.values()):
        return None
    contained = [letter for letter, choice in choices.items() if choice.lower() in text.lower()]
    return contained[0] if len(contained) == 1 else None


# Yes and no


def vlmevalkit_yes_no(text: str) -> str | None:
    """Return `yes` or `no` if exactly one of the two occurs as a word, else `None` (VLMEvalKit's Unknown).

    `open-compass/VLMEvalKit:vlmeval/dataset/utils/yorn.py`, after VQA's punctuation step, which may join two words or
    part them.
    """
    # Its own period rule also spares one after a digit; no yes or no comes or goes by that.
    said = {"yes", "no"}.intersection(strip_punctuation(text.lower()).replace(".", "").split())
    return said.pop() if len(said) == 1 else None
