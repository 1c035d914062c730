"""The items of a JSON list, or of JSON lines, one after another, each with its byte range.

A file is read in pieces, so that memory does not depend on its size. What an item must contain is in `llava_json`.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from olivine.data.item_error import ItemError, shortened
from olivine.errors import DataError
from olivine.files import unreadable
from olivine.text_formats import BOM, HEAD, foreign_format

#: An item of more bytes than this is not a training sample.
MAX_ITEM = 64 * 2**20
_PIECE = 4 * 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
#: A piece may end within a number, a word or an escape, never more than this many characters from its end.
_CUT = 32


@dataclass(frozen=True, slots=True)
class Located:
    """One item: its number in the file, its byte range, and its value or what is wrong with it."""

    index: int
    start: int
    size: int
    value: Any


def scan(path: Path) -> Iterator[Located]:
    """Yield the items of a file in order; in JSON lines, a line that is not JSON becomes an `ItemError`.

    Raises:
        DataError: the file is missing, in another format, neither a list nor JSON lines, or damaged (with the line).
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            foreign = foreign_format(head)
            if foreign is not None:
                raise DataError(f"{path}: expected JSON; this is {foreign}.")
            file.seek(len(BOM) if head.startswith(BOM) else 0)
            first = head.removeprefix(BOM).lstrip()[:1]
            if first == b"{":
                yield from _lines(file, path)
            else:
                yield from _list(file, path)
    except OSError as error:
        raise unreadable(path, error) from None


def parse(content: bytes, name: str) -> Any:
    """Return the value of one item's bytes.

    Raises:
        ItemError: they are not JSON, or nested too deeply.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ItemError("not JSON", f"{name}: nested too deeply; expected an object with conversations.") from None
    except (ValueError, MemoryError) as error:
        raise ItemError("not JSON", f"{name}: not JSON ({shortened(str(error))}).") from None


def _lines(file: IO[bytes], path: Path) -> Iterator[Located]:
    index = 0
    start = file.tell()
    while line := file.readline(MAX_ITEM):
        if line.strip():
            value: Any
            try:
                value = parse(line, f"line {index + 1}" if index == 0 else f"item {index} (byte {start})")
                if index == 0:
                    _refuse_other_object(value, file, path)
            except ItemError as error:
                if index == 0:
                    raise _not_json_lines(path, start, line, error) from None
                value = error
            yield Located(index, start, len(line), value)
            index += 1
        start += len(line)


def _refuse_other_object(value: Any, file: IO[bytes], path: Path) -> None:
    """Raise for a single object in its file that is not an item."""
    position = file.tell()
    alone = not file.read(HEAD).strip()
    file.seek(position)
    if alone and isinstance(value, dict) and not {"conversations", "messages"} & value.keys():
        raise DataError(f"{path}: {_described_keys(value)}; expected a JSON list of items with id and conversations.")


def _not_json_lines(path: Path, start: int, line: bytes, error: ItemError) -> DataError:
    """Return the error for a file that begins like an object but whose first line is not one."""
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(MAX_ITEM)
    try:
        value, end = json.JSONDecoder().raw_decode(head.decode("utf-8", errors="replace").lstrip())
    except (ValueError, RecursionError, MemoryError):
        return DataError(f"{path}: {error} Expected a JSON list of items, or one object per line.")
    if len(line) >= MAX_ITEM:
        return DataError(f"{path}: its first line has over {MAX_ITEM:,} bytes; expected one item per line, or a list.")
    more = " followed by more" if head.decode("utf-8", errors="replace").lstrip()[end:].strip() else ""
    return DataError(
        f"{path}: {_described_keys(value)} over several lines{more}; expected a JSON list of items with id and "
        "conversations, or one object per line."
    )


def _described_keys(value: Any) -> str:
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    return f"a JSON object with {', '.join(shortened(repr(key), 30) for key in list(value)[:8]) or 'no keys'}"


def _list(file: IO[bytes], path: Path) -> Iterator[Located]:
    text = _Pieces(file, path)
    if text.next_character() != "[":
        raise text.wrong_beginning()
    text.skip(1)
    if text.next_character() == "]":
        text.skip(1)
    else:
        while True:
            yield text.value()
            separator = text.next_character()
            if separator not in (",", "]"):
                raise text.error("Expecting ',' delimiter")
            text.skip(1)
            if separator == "]":
                break
    if text.next_character():
        raise text.error("Extra data")


class _Pieces:
    """Text that is decoded piece by piece, with the position of its next character in the file."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._scan: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]
        self._text, self._at, self._ended = "", 0, False
        self._byte = file.tell()
        self._ascii = True
        self._index = 0

    def next_character(self) -> str:
        """Return the next character that is not whitespace; empty at the end."""
        while True:
            self.skip(_SPACE.match(self._text, self._at).end() - self._at)  # type: ignore[union-attr]  # matches nothing, too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self, characters: int) -> int:
        """Advance by some characters and return the bytes passed."""
        end = self._at + characters
        size = characters if self._ascii else len(self._text[self._at : end].encode("utf-8"))
        self._at = end
        self._byte += size
        return size

    def value(self) -> Located:
        """Return the item that begins here."""
        self.next_character()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except StopIteration as stop:
                problem, position = "Expecting value", int(stop.value)
            except json.JSONDecodeError as error:
                problem, position = error.msg, error.pos
                if error.msg.startswith("Unterminated string"):
                    position = len(self._text)
            except RecursionError:
                raise DataError(f"{self._path}: item {self._index} is nested too deeply; expected an object.") from None
            except (ValueError, MemoryError) as error:
                raise DataError(f"{self._path}: item {self._index} cannot be read ({shortened(str(error))}).") from None
            else:
                cut = isinstance(value, int | float) and end > len(self._text) - _CUT
                if not cut or not self._more():
                    return self._located(value, end)
                continue  # the rest of a number may lie in the next piece
            if position < len(self._text) - _CUT or not self._more():
                self.skip(position - self._at)
                raise self.error(problem)

    def error(self, problem: str) -> DataError:
        """Return the error for a problem at the next character."""
        with self._path.open("rb") as file:
            before = file.read(self._byte) if self._byte < MAX_ITEM else None
            line = _count_lines(self._path, self._byte) + 1
        column = "" if before is None else f", column {len(before) - before.rfind(chr(10).encode())}"
        cut = " The file ends there: is it truncated? Fetch or write it again." if self._is_at_end() else ""
        return DataError(
            f"{self._path}: not valid JSON at line {line}{column} ({problem}), in item {self._index}.{cut}"
        )

    def wrong_beginning(self) -> DataError:
        """Return the error for a file that is neither a list nor an object."""
        if not self.next_character():
            return DataError(f"{self._path}: the file is empty; expected a JSON list of items.")
        return DataError(
            f"{self._path}: not valid JSON, or not a list: it begins with "
            f"{self._text[self._at : self._at + 20]!r}; expected a JSON list of items with id and conversations."
        )

    def _located(self, value: Any, end: int) -> Located:
        start = self._byte
        size = self.skip(end - self._at)
        if size > MAX_ITEM:
            raise DataError(f"{self._path}: item {self._index} has {size:,} bytes; at most {MAX_ITEM:,} are read.")
        self._index += 1
        return Located(self._index - 1, start, size, value)

    def _is_at_end(self) -> bool:
        left = self._text[self._at :].rstrip()
        return self._ended and len(left) < _CUT and not left.endswith("]")

    def _more(self) -> bool:
        """Read another piece; return False at the file's end."""
        left = self._text[self._at :]
        if self._ended:
            return False
        if len(left) > MAX_ITEM:
            raise DataError(
                f"{self._path}: item {self._index}, from byte {self._byte}, does not end within {MAX_ITEM:,} bytes."
            )
        content = self._file.read(max(_PIECE, len(left)))
        self._ended = not content
        try:
            new = self._decode(content, final=self._ended)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._path}: not UTF-8 text (in item {self._index}: {error.reason}).") from None
        self._text, self._at = left + new, 0
        self._ascii = self._text.isascii()
        return True


def _count_lines(path: Path, end: int) -> int:
    lines = 0
    with path.open("rb") as file:
        while end > 0 and (piece := file.read(min(end, _PIECE))):
            lines += piece.count(b"\n")
            end -= len(piece)
    return lines
