"""The pieces of a rendered conversation, each marked as supervised or not, and the templates that produce them.

The available templates are in `template`; tokenising is in `encoding`, and never counts or guesses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache

from olivine.records import Conversation, Role


class PieceKind(Enum):
    """What a piece of the rendered text means."""

    MARKER = auto()
    """One special token, by its exact name in the tokenizer; `<bos>` and `<eos>` stand for its own names."""
    BEGINNING = auto()
    """The beginning-of-sequence token if the tokenizer adds one automatically, else nothing."""
    IMAGE = auto()
    """The placeholder of the image's tokens."""
    TEXT = auto()
    """Ordinary text, in which no special token is ever recognised."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the rendered conversation; `supervised` parts carry labels."""

    text: str
    kind: PieceKind = PieceKind.TEXT
    supervised: bool = False


IMAGE = Piece("<image>", PieceKind.IMAGE)
BEGINNING = Piece("", PieceKind.BEGINNING)
#: Markers whose names differ between tokenizers.
BOS, EOS = "<bos>", "<eos>"


@cache
def marker(name: str, *, supervised: bool = False) -> Piece:
    """Return the piece of a special token."""
    return Piece(name, PieceKind.MARKER, supervised)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A way of writing conversations as text.

    Attributes:
        name: its name in recipes.
        render: pieces of a conversation (second argument: whether an image comes first, besides those within
            its turns). A conversation that ends with a user turn is rendered up to where the model's reply begins.
        stop: the marker that ends a reply.
        jinja: the same template for `transformers`, without the beginning-of-sequence token.
        begins: whether the beginning-of-sequence token opens the text even if the tokenizer does not add it.
        first: the marker that must be the tokenizer's beginning-of-sequence token, if the template names one.
    """

    name: str
    render: Callable[[Conversation, bool], list[Piece]]
    stop: str
    jinja: str
    begins: bool = True
    first: str | None = None


def without_system(conversation: Conversation) -> tuple[str | None, Conversation]:
    """Return the text of the system turn, None without one, and the turns after it."""
    if conversation and conversation[0].role is Role.SYSTEM:
        return conversation[0].text, conversation[1:]
    return None, conversation
