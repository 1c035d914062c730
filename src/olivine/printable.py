"""External text made safe to print: for a terminal, a table file, a page.

What a data set, a model or an endpoint wrote may contain characters that move a cursor, recolour a screen, reorder a
line or start a formula. They are printed as escapes (`\\x1b`) and have no effect. JSON files keep the text unchanged:
JSON has its own escapes.
"""

import re

#: Controls (C0, DEL, C1) except tab and newline; marks that embed or override the writing direction; separators that
#: some programs treat as newlines; tag characters, which are invisible; halves of surrogate pairs.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
#: What spreadsheets interpret as the start of a formula. A number with a sign is not one.
_FORMULA = re.compile(r"[=+\-@\t\r\n|%]")
_NUMBER = re.compile(r"[+-]?(\d[\d,.]*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


def printable(text: str) -> str:
    """Return `text` with its control characters escaped, tabs and newlines kept.

    The result always encodes as UTF-8, and has no effect on a terminal beyond being printed.
    """
    return _UNPRINTABLE.sub(_escaped, text)


def csv_cell(value: object) -> object:
    """Return `value` safe for a cell of a table file: text that a spreadsheet would run as a formula gets a `'`."""
    if not isinstance(value, str):
        return value
    starts_formula = _FORMULA.match(value.lstrip(" ")) and not _NUMBER.fullmatch(value)
    text = printable(value)
    return f"'{text}" if starts_formula else text


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    if found[0] in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[found[0]]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
