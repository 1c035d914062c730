"""A request's messages as Olivine's conversation: turns, and where images stand in them.

The prompt is the one that the model folder's own chat template writes, so that other servers answer the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from olivine.records import Conversation, Role, Turn
from olivine.serving.chat_request import ImagePart, Message
from olivine.serving.problems import invalid


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image's URL, and the field of the request that holds it."""

    url: str
    where: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation, its images in order, and whether the only one precedes the first user's turn."""

    turns: Conversation
    images: tuple[ImageReference, ...]
    in_front: bool


def read_messages(messages: Sequence[Message]) -> Dialogue:
    """Return the conversation of a request's messages.

    An only image precedes its message's text, wherever it stands in it, and is followed by a newline (LLaVA's rule).
    Of several, each stands where it is, parts on lines of their own.

    Raises:
        ApiError: roles do not alternate, the last is not the user's, or a text is empty or no valid Unicode (400).
    """
    _require_order(messages)
    images = tuple(
        ImageReference(part.image_url.url, f"messages.{number}.content.{position}.image_url.url")
        for number, message in enumerate(messages)
        if not isinstance(message.content, str)
        for position, part in enumerate(message.content)
        if isinstance(part, ImagePart)
    )
    several = len(images) > 1
    first_user = next(number for number, message in enumerate(messages) if message.role == "user")
    turns = []
    in_front = False
    for number, message in enumerate(messages):
        turn, alone = _turn(message, number, several=several)
        if alone and number == first_user:
            in_front = True
        elif alone:
            turn = Turn(turn.role, "\n" + turn.text, (0,))
        turns.append(turn)
    return Dialogue(tuple(turns), images, in_front)


def with_images(turns: Sequence[Turn], shown: Sequence[bool]) -> tuple[Conversation, bool]:
    """Return turns with the image that some of them show in front of their text, by the same rules.

    Args:
        turns: without images.
        shown: for each whether it shows one.
    """
    first_user = next(number for number, turn in enumerate(turns) if turn.role is Role.USER)
    if sum(shown) == 1 and shown[first_user]:
        return tuple(turns), True
    pairs = zip(turns, shown, strict=True)
    return tuple(Turn(turn.role, "\n" + turn.text, (0,)) if has else turn for turn, has in pairs), False


def _turn(message: Message, number: int, *, several: bool) -> tuple[Turn, bool]:
    """Return a turn, and whether it has the conversation's only image, which is then not in the turn."""
    role = Role.SYSTEM if message.role == "developer" else Role(message.role)
    where = f"messages.{number}.content"
    if isinstance(message.content, str):
        return Turn(role, _valid(message.content, where)), False
    if not message.content:
        raise invalid(f"{where}: empty.", where)
    texts: list[str] = []
    positions: list[int] = []
    alone = False
    for position, part in enumerate(message.content):
        if isinstance(part, ImagePart):
            if role is not Role.USER:
                raise invalid(f"{where}.{position}: images stand in the user's messages only.", where)
            alone = not several
        if several and position:
            texts.append("\n")
        if not isinstance(part, ImagePart):
            texts.append(_valid(part.text, f"{where}.{position}.text"))
        elif several:
            positions.append(sum(map(len, texts)))
    return Turn(role, "".join(texts), tuple(positions)), alone


def _valid(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(f"{where}: holds half of a surrogate pair, which is no text.", where) from None
    return text


def _require_order(messages: Sequence[Message]) -> None:
    """Refuse what no template was trained on: it would be answered, but not sensibly."""
    opening = messages[0].role in ("system", "developer")
    for number, message in enumerate(messages[opening:], start=int(opening)):
        expected = "user" if (number - opening) % 2 == 0 else "assistant"
        if message.role != expected:
            raise invalid(
                f"messages.{number}.role: {message.role}, expected {expected}: after at most one system message, user "
                "and assistant alternate.",
                f"messages.{number}.role",
                "unsupported_conversation",
            )
    if messages[-1].role != "user":
        raise invalid("messages: the last one must be the user's.", "messages", "unsupported_conversation")
