"""LLaVA's training JSON as published: a list of items with `id`, `conversations` and, unless text-only, `image`.

Checking single items; other layouts are in `layouts`, and what a broken one does is the source's policy (`sources`).
"""

from collections import Counter
from typing import Any

from olivine.data import layouts
from olivine.data.image_marks import IMAGE_MARK, turn_with_marks
from olivine.data.item_error import ItemError, shortened
from olivine.records import MarkRule, Role, Sample, Turn

_ROLES = {
    **dict.fromkeys(("human", "user"), Role.USER),
    **dict.fromkeys(("gpt", "assistant", "bot", "model", "chatgpt"), Role.ASSISTANT),
    **dict.fromkeys(("system", "developer"), Role.SYSTEM),
}
_PLAIN_KEYS = frozenset({"id", "image", "conversations"})
_PLAIN_TURN = frozenset({"from", "value"})


def item_name(item: Any, index: int) -> str:
    """How messages call an item: its place in the file, and its id if it has one."""
    identity = item.get("id") if isinstance(item, dict) else None
    return f"item {index}" + (f" (id {shortened(repr(str(identity)), 80)})" if identity is not None else "")


def parse_item(
    item: Any,
    index: int,
    unread: Counter[str] | None = None,
    *,
    name: str | None = None,
    marks: MarkRule = "front",
) -> Sample:
    """One item as a `Sample`.

    A system turn may come first. As LLaVA's loader does: replies before the first human turn are ignored, and a single
    image's mark, wherever it is in a human turn, moves to the front (here: of the conversation) and the turn that
    contained it is stripped. The marks of several images keep their positions.

    Args:
        item: the item as the file has it.
        index: its number in the file.
        unread: counts keys that nothing reads, each once per item.
        name: what messages call it; by default its place and id.
        marks: where a single image's mark goes.

    Raises:
        ItemError: what is wrong, with the item's name and what was expected.
    """
    name = name or item_name(item, index)
    if not isinstance(item, dict):
        raise ItemError("not an object", f"{name}: a {type(item).__name__}; expected an object with conversations.")
    identity = _identity(item.get("id"), index, name)
    plain = item.keys() <= _PLAIN_KEYS
    if not plain:
        layouts.refuse_unread(item, name)
    images: list[Any] = []
    turns, plain_turns = [], True
    for number, raw in enumerate(layouts.raw_turns(item, name), start=1):
        turns.append(_parse_turn(raw, name, number, images))
        plain_turns = plain_turns and raw.keys() == _PLAIN_TURN
    opening = next((number for number, turn in enumerate(turns) if turn.role is Role.USER), len(turns))
    system = [turn for turn in turns[:opening] if turn.role is Role.SYSTEM]
    turns = turns[opening:]
    _check_alternation(turns, name, opening)
    named = layouts.images_of(item, name, images)
    for image in named:
        _refuse_half_characters(image, f"{name}: its image path")
    count = sum(turn.text.count(IMAGE_MARK) for turn in turns if turn.role is Role.USER)
    if count == 1 and len(set(named)) == 1:
        named = named[:1]  # the same one, named in two keys or twice
    if count != len(named):
        raise layouts.mark_problem(item, named, count, name)
    if unread is not None and not (plain and plain_turns):
        unread.update(layouts.unread_keys(item))
    if len(named) > 1:
        return Sample(identity, (*system, *(_with_marks(turn) for turn in turns)), images=named)
    placed = _without_mark if marks == "front" else _with_marks
    return Sample(identity, (*system, *(placed(turn) for turn in turns)), next(iter(named), None))


def _identity(identity: Any, index: int, name: str) -> str:
    if identity is None:
        return str(index)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise ItemError("id is no text", f"{name}: its id is a {type(identity).__name__}; expected a text or a number.")
    _refuse_half_characters(str(identity), f"{name}: its id")
    return str(identity)


def _parse_turn(raw: Any, name: str, number: int, images: list[Any]) -> Turn:
    where = f"{name}, turn {number}"
    if not isinstance(raw, dict):
        raise ItemError("turn is no text", f"{where}: expected an object with 'from' and a text 'value'.")
    said_by = raw.get("from") if raw.get("from") is not None else raw.get("role")
    role = _ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        role = _ROLES.get(str(said_by).strip().lower())
    if role is None:
        raise ItemError("unknown role", f"{where}: unknown role {shortened(repr(said_by), 40)}; expected human or gpt.")
    if role is Role.SYSTEM and number > 1:
        raise ItemError("system turn", f"{where}: a system turn; expected one only before all others.")
    if raw.keys() != _PLAIN_TURN:
        layouts.refuse_turn_weight(raw, where)
    text = layouts.text_of_turn(raw, where, images)
    _refuse_half_characters(text, where)
    return Turn(role, text)


def _refuse_half_characters(text: str, where: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ItemError(
            "half a character",
            f"{where}: half a character (a lone surrogate) at place {error.start}; was the text cut inside one? "
            "Repair or remove it.",
        ) from None


def _check_alternation(turns: list[Turn], name: str, opening: int) -> None:
    """Raise if turns, which follow `opening` others in the file, do not alternate or a reply is empty."""
    for number, turn in enumerate(turns):
        expected = Role.ASSISTANT if number % 2 else Role.USER
        position = opening + number + 1
        if turn.role is not expected:
            who = "human" if turn.role is Role.USER else "gpt"
            raise ItemError(
                "two turns in a row",
                f"{name}, turn {position}: two {who} turns in a row; expected human and gpt in turn.",
            )
        if turn.role is Role.ASSISTANT and not turn.text.strip():
            raise ItemError("empty answer", f"{name}: the reply in turn {position} is empty; nothing could be learnt.")
    if not turns or turns[-1].role is Role.USER:
        raise ItemError("no reply", f"{name}: the conversation ends without a reply; expected a gpt turn at its end.")


def _without_mark(turn: Turn) -> Turn:
    if turn.role is Role.USER and IMAGE_MARK in turn.text:
        return Turn(turn.role, turn.text.replace(IMAGE_MARK, "").strip())
    return turn


def _with_marks(turn: Turn) -> Turn:
    if turn.role is Role.USER and IMAGE_MARK in turn.text:
        return turn_with_marks(turn.role, turn.text)
    return turn


__all__ = ["IMAGE_MARK", "ItemError", "item_name", "parse_item"]
