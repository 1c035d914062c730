"""Conversations of text that breaks tokenisers: all of Unicode, white space of every kind, marks half spelled."""

import unicodedata
from collections.abc import Sequence
from random import Random

from olivine.records import Conversation, Role, Turn

_WORDS = ("the", "a", "red", "circle", "12345", "3.14", "don't", "naïve", "Straße", "user", "model", "assistant", "In:")
_SPACES = ("\n", "\n\n", " \n ", "\t", "\r\n", "  ", "\xa0", "\u2028", "\u3000", "\u200b", "\x0b", "\x85", "\ufeff")
_JOINED = (
    "e\u0301",
    "\u0301",
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "\u1112\u1161\u11ab",
    "ﬁ",
    "①",
    "Å",
    "\u202eabc",
    "▁",
    "▁▁",
    "\x00",
)
_HALF = (
    "<",
    "<|",
    "|>",
    "</",
    "<start_of",
    "_turn>",
    "<|im_",
    "[INST]",
    "<s",
    "{{ x }}",
    "{% if %}",
    "<think>",
    "\\n",
    "'",
)


def hostile_conversations(count: int, *, seed: int = 0, spelled: Sequence[str] = ()) -> list[Conversation]:
    """Return conversations of one to three questions; no text is empty or white space alone.

    `spelled` are texts (a tokenizer's special tokens, say) that some of the turns spell out.
    """
    draw = Random(seed)  # noqa: S311
    made = []
    for _ in range(count):
        turns = []
        for _ in range(draw.choice((1, 1, 2, 3))):
            turns += [Turn(Role.USER, _text(draw, spelled)), Turn(Role.ASSISTANT, _text(draw, spelled))]
        made.append(tuple(turns))
    return made


def _text(draw: Random, spelled: Sequence[str]) -> str:
    while True:
        text = "".join(_piece(draw, spelled) for _ in range(draw.randint(1, 12)))
        if text.strip():
            return text


def _piece(draw: Random, spelled: Sequence[str]) -> str:
    kind = draw.random()
    if spelled and kind < 0.1:
        return draw.choice(spelled)
    if kind < 0.5:
        return draw.choice(_WORDS) + draw.choice(("", " "))
    if kind < 0.65:
        return draw.choice(_SPACES)
    if kind < 0.75:
        return draw.choice(_JOINED)
    if kind < 0.82:
        return draw.choice(_HALF)
    return "".join(_character(draw) for _ in range(draw.randint(1, 4)))


def _character(draw: Random) -> str:
    while True:
        found = chr(draw.choice((draw.randrange(0x250), draw.randrange(0x10000), draw.randrange(0x110000))))
        if unicodedata.category(found) != "Cs":
            return found
