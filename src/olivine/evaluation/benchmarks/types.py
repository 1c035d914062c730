"""The types of a question's values: text where text is required, ids that can be distinguished.

Which keys there are is each benchmark's own rule.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from olivine.errors import DataError


def shortened(value: Any) -> str:
    """Return a value as messages show it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def require_types(
    row: Mapping[str, Any],
    where: str,
    *,
    text: Iterable[str] = (),
    text_or_nothing: Iterable[str] = (),
    ids: Iterable[str] = (),
) -> None:
    """Check the kinds of a row's values; keys that are not there are another check's business.

    Args:
        row: the question.
        where: file and location, for the start of messages.
        text: keys that hold text.
        text_or_nothing: keys that hold text or null.
        ids: keys that hold text or a whole number.

    Raises:
        DataError: a value is of another kind, or text holds half a character (a lone surrogate).
    """
    for keys, kinds, expected in (
        (text, (str,), "text"),
        (text_or_nothing, (str, type(None)), "text or null"),
        (ids, (str, int), "text or a whole number"),
    ):
        for key in keys:
            value = row.get(key, "")
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise DataError(f"{where}: {key} is {shortened(value)}; expected {expected}.")
            if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
                raise DataError(f"{where}: {key} holds half a character (a lone surrogate). Repair the text.")
