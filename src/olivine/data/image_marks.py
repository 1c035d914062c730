"""The positions of images in a text: `<image>` marks are taken out of it and put as pieces between its parts.

The sample or question knows which images they are; `llava_json` moves a single one to the front.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from olivine.data.pieces import IMAGE, Piece
from olivine.errors import DataError
from olivine.records import Conversation, Question, Role, Turn

IMAGE_MARK = "<image>"


def turn_with_marks(role: Role, text: str) -> Turn:
    """Return a turn whose images stand where its text has marks; white space at its ends is stripped."""
    parts = text.strip().split(IMAGE_MARK)
    return Turn(role, "".join(parts), tuple(accumulate(len(part) for part in parts[:-1])))


def user_turn(prompt: str, images: int) -> Turn:
    """Return the user's turn about `images` images, all in front of the text where it has no mark.

    Raises:
        DataError: it has marks, but not as many as images.
    """
    marks = prompt.count(IMAGE_MARK)
    if marks not in (0, images):
        raise DataError(
            f"{marks} {IMAGE_MARK} marks for {images} images; expected one mark per image, or none, which puts all "
            "images in front of the text."
        )
    return turn_with_marks(Role.USER, prompt if marks else f"{IMAGE_MARK}\n" * images + prompt)


def without_images(question: Question) -> Question:
    """Return a question without its images, and without the marks of several."""
    prompt = question.prompt.replace(IMAGE_MARK, "").strip() if question.images else question.prompt
    return replace(question, prompt=prompt, image=None, images=())


def pieces_of(turn: Turn) -> list[Piece]:
    """Return a turn's text as pieces, with its images where they stand."""
    if not turn.images:
        return [Piece(turn.text)]
    pieces, start = [], 0
    for offset in turn.images:
        pieces += [Piece(turn.text[start:offset]), IMAGE]
        start = offset
    return [piece for piece in (*pieces, Piece(turn.text[start:])) if piece.text]


def image_count(conversation: Conversation) -> int:
    """Return how many images the texts of a conversation contain."""
    return sum(len(turn.images) for turn in conversation)


def each_behind_images(conversation: Conversation) -> list[Conversation]:
    """Return each question with its reply on its own, behind the images of the first and what precedes them.

    A system turn opens each of them. Between the images and a later question stands the white space that follows the
    images in the first one.

    Raises:
        DataError: images stand in a later question, which the questions before it would not see.
    """
    opening, turns = _split_opening(conversation)
    if any(turn.images for turn in turns[1:]):
        raise DataError(
            "turns: independent shows every question the images of the first one, but images stand in later ones. "
            "Set turns: together, or skip such items."
        )
    shared = turns[0]
    last = shared.images[-1]
    rest = shared.text[last:]
    space = rest[: len(rest) - len(rest.lstrip())]
    before = shared.text[:last] + space
    pairs = [turns[:2]]
    for number in range(2, len(turns), 2):
        asked = Turn(Role.USER, before + turns[number].text, shared.images)
        pairs.append((asked, *turns[number + 1 : number + 2]))
    return [(*opening, *pair) for pair in pairs]


def _split_opening(conversation: Conversation) -> tuple[Conversation, Conversation]:
    opening: Sequence[Turn] = [turn for turn in conversation[:1] if turn.role is Role.SYSTEM]
    return tuple(opening), conversation[len(opening) :]
