"""LLaVA's training JSON as published: a list of items with `id`, `conversations` and, unless text-only, `image`.

Reading and checking single items; what to do with a broken one is the source's policy (`sources`).
"""

from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.files import read_json
from olivine.records import Role, Sample, Turn

IMAGE_MARK = "<image>"
_ROLES = {"human": Role.USER, "user": Role.USER, "gpt": Role.ASSISTANT, "assistant": Role.ASSISTANT}


class ItemError(DataError):
    """One item is broken; `kind` names the way, for counting."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_items(path: Path) -> list[Any]:
    """The raw items of a file.

    Raises:
        DataError: missing file, JSON cut in the middle (with the line), or not a list.
    """
    items = read_json(path)
    if not isinstance(items, list):
        raise DataError(
            f"{path}: expected a JSON list of items with id and conversations; got a {type(items).__name__}."
        )
    return items


def item_name(item: Any, index: int) -> str:
    """How messages call an item: its place in the file, and its id if it has one."""
    identity = item.get("id") if isinstance(item, dict) else None
    return f"item {index}" + (f" (id {str(identity)!r})" if identity is not None else "")


def parse_item(item: Any, index: int) -> Sample:
    """One item as a `Sample`.

    As LLaVA's loader does: replies before the first human turn are passed over, and the picture's mark, wherever it
    stands in a human turn, moves to the front (here: of the conversation) and the turn that held it is stripped.

    Raises:
        ItemError: what is wrong, with the item's name and what was expected.
    """
    name = item_name(item, index)
    if not isinstance(item, dict):
        raise ItemError("not an object", f"{name}: a {type(item).__name__}; expected an object with conversations.")
    raw_turns = item.get("conversations")
    if not isinstance(raw_turns, list) or not raw_turns:
        raise ItemError(
            "empty conversation", f"{name}: conversations is empty; expected at least one question and reply."
        )
    turns = [_parse_turn(raw, name, number) for number, raw in enumerate(raw_turns, start=1)]
    while turns and turns[0].role is Role.ASSISTANT:
        turns.pop(0)
    _check_alternation(turns, name)
    image = item.get("image")
    if image is not None and not isinstance(image, str):
        raise ItemError("image is no path", f"{name}: image is a {type(image).__name__}; expected one relative path.")
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns if turn.role is Role.USER)
    if marks != (image is not None):
        raise ItemError(
            "<image> count",
            f"{name}: {marks} {IMAGE_MARK} marks for {int(image is not None)} images; expected one mark an image.",
        )
    return Sample(str(item.get("id", index)), tuple(_without_mark(turn) for turn in turns), image)


def _parse_turn(raw: Any, name: str, number: int) -> Turn:
    if not isinstance(raw, dict) or not isinstance(raw.get("value"), str):
        raise ItemError("turn is no text", f"{name}, turn {number}: expected an object with 'from' and a text 'value'.")
    role = _ROLES.get(str(raw.get("from")))
    if role is None:
        raise ItemError(
            "unknown role", f"{name}, turn {number}: unknown role {raw.get('from')!r}; expected human or gpt."
        )
    return Turn(role, raw["value"])


def _check_alternation(turns: list[Turn], name: str) -> None:
    for number, turn in enumerate(turns):
        expected = Role.ASSISTANT if number % 2 else Role.USER
        if turn.role is not expected:
            who = "human" if turn.role is Role.USER else "gpt"
            raise ItemError("two turns in a row", f"{name}: two {who} turns in a row; expected human and gpt in turn.")
        if turn.role is Role.ASSISTANT and not turn.text.strip():
            raise ItemError(
                "empty answer", f"{name}: the reply in turn {number + 1} is empty; nothing could be learnt."
            )
    if not turns or turns[-1].role is Role.USER:
        raise ItemError("no reply", f"{name}: the conversation ends without a reply; expected a gpt turn at its end.")


def _without_mark(turn: Turn) -> Turn:
    if turn.role is Role.USER and IMAGE_MARK in turn.text:
        return Turn(turn.role, turn.text.replace(IMAGE_MARK, "").strip())
    return turn
