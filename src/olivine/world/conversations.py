"""Questions as instruction data: LLaVA's wordings, multiple choice, whole sentences, free description.

Also the same about a scene that is told in words instead of shown, which is how the tiny language models learn to
read before any image comes. What is asked lies in `questions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from olivine.records import Conversation, Role, Turn
from olivine.wording import SHORT_ANSWER, with_options
from olivine.world.asked import Asked
from olivine.world.language import caption, description
from olivine.world.questions import ask
from olivine.world.scene import Scene

#: How often each form of asking is taken; what a question does not allow falls back to the short answer.
_FORMS = {"short": 0.55, "sentence": 0.14, "letters": 0.13, "two letters": 0.06, "context": 0.04, "hinted": 0.02}
_DESCRIBE = (
    "Describe the picture.",
    "What is in the picture?",
    "Describe this image in one sentence.",
    "What can be seen here?",
)
_CONTEXTS = ("Look at the picture.", "This picture was drawn.", "The picture shows a scene by {}.")


@dataclass(frozen=True, slots=True)
class Told:
    """A scene in words, and questions on it with their replies."""

    description: str
    pairs: tuple[tuple[str, str], ...]


def instructions(scene: Scene, draw: Random, count: int, topics: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """`count` (question, reply) pairs on a scene, about one in three scenes with a free description among them.

    About given `topics` there may be fewer, and no description.
    """
    pairs = [_put(asked, scene, draw) for asked in ask(scene, draw, count, topics)]
    if topics is None and draw.random() < 0.3:
        pairs[-1] = (draw.choice(_DESCRIBE), caption(scene, draw, keep=1.0))
    return pairs


def told_in_words(scene: Scene, draw: Random, count: int) -> Told:
    """The scene's description and `count` questions that it answers."""
    return Told(description(scene, draw), tuple(instructions(scene, draw, count)))


def conversation(pairs: Sequence[tuple[str, str]]) -> Conversation:
    """Pairs as turns."""
    return tuple(turn for asked, reply in pairs for turn in (Turn(Role.USER, asked), Turn(Role.ASSISTANT, reply)))


def _put(asked: Asked, scene: Scene, draw: Random) -> tuple[str, str]:
    form = draw.choices(list(_FORMS), list(_FORMS.values()))[0]
    if form == "short" and asked.topic == "setting" and asked.structural == "verify":
        # MME asks of scenes in its own words.
        place = asked.text.removesuffix("?").split()[-1]
        return f"Is this picture captured in a place of {place}?{SHORT_ANSWER}", asked.answer
    if form == "sentence":
        return asked.text, asked.sentence
    if form == "hinted" and asked.topic == "writing":
        written = " ".join(thing.writing for thing in scene.things if thing.writing)
        return f"{asked.text}\nReference OCR token: {written}{SHORT_ANSWER}", asked.answer
    if form in ("letters", "context", "two letters") and len(asked.valid) > 1:
        options = options_of(asked, draw, most=2 if form == "two letters" else 4)
        letter = chr(ord("A") + options.index(asked.answer))
        if form == "two letters":
            listed = " ".join(f"({chr(ord('a') + place)}) {option}" for place, option in enumerate(options))
            return f"{asked.text} {listed}", f"({letter.lower()})"
        context = f"Context: {draw.choice(_CONTEXTS)}\n".format(scene.time) if form == "context" else ""
        return context + with_options(asked.text, options), letter
    return asked.text + SHORT_ANSWER, asked.answer


def options_of(asked: Asked, draw: Random, *, most: int) -> list[str]:
    """The answer among other answers that would make sense, at most `most` in all, in a drawn order."""
    others = [option for option in asked.valid if option != asked.answer]
    options = [asked.answer, *draw.sample(others, min(len(others), most - 1))]
    draw.shuffle(options)
    return options
