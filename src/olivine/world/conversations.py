"""Questions as instruction data: LLaVA's wordings, multiple choice, whole sentences, free description.

Also the same about a scene described in words instead of an image, which is how the tiny language models learn to
read before any image. The questions themselves are in `questions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from olivine.records import Conversation, Role, Turn
from olivine.wording import SHORT_ANSWER, with_options
from olivine.world.language import caption, description
from olivine.world.question import Question
from olivine.world.questions import ask
from olivine.world.scene import Scene

#: Share of each form; a question that a form does not fit falls back to the short answer.
_FORMS = {"short": 0.55, "sentence": 0.14, "letters": 0.13, "two letters": 0.06, "context": 0.04, "hinted": 0.02}
_DESCRIBE = (
    "Describe the picture.",
    "What is in the picture?",
    "Describe this image in one sentence.",
    "What can be seen here?",
)
_CONTEXTS = ("Look at the picture.", "This picture was drawn.", "The picture shows a scene by {}.")


@dataclass(frozen=True, slots=True)
class DescribedScene:
    """A scene in words, and questions about it with their replies."""

    description: str
    pairs: tuple[tuple[str, str], ...]


def instructions(scene: Scene, rng: Random, count: int, topics: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Draw `count` (question, reply) pairs about a scene; three scenes in ten include a free description.

    With `topics` there may be fewer, and no description.
    """
    pairs = [_put(question, scene, rng) for question in ask(scene, rng, count, topics)]
    if topics is None and rng.random() < 0.3:
        pairs[-1] = (rng.choice(_DESCRIBE), caption(scene, rng, keep=1.0))
    return pairs


def described_in_words(scene: Scene, rng: Random, count: int) -> DescribedScene:
    """Draw the scene's description and `count` questions that it answers."""
    return DescribedScene(description(scene, rng), tuple(instructions(scene, rng, count)))


def conversation(pairs: Sequence[tuple[str, str]]) -> Conversation:
    """Return pairs as turns."""
    return tuple(turn for question, reply in pairs for turn in (Turn(Role.USER, question), Turn(Role.ASSISTANT, reply)))


def _put(question: Question, scene: Scene, rng: Random) -> tuple[str, str]:
    form = rng.choices(list(_FORMS), list(_FORMS.values()))[0]
    if form == "short" and question.topic == "setting" and question.structural == "verify":
        # MME has its own wording for scenes.
        place = question.text.removesuffix("?").split()[-1]
        return f"Is this picture captured in a place of {place}?{SHORT_ANSWER}", question.answer
    if form == "sentence":
        return question.text, question.sentence
    if form == "hinted" and question.topic == "writing":
        written = " ".join(obj.writing for obj in scene.objects if obj.writing)
        return f"{question.text}\nReference OCR token: {written}{SHORT_ANSWER}", question.answer
    if form in ("letters", "context", "two letters") and len(question.valid) > 1:
        options = options_of(question, rng, most=2 if form == "two letters" else 4)
        letter = chr(ord("A") + options.index(question.answer))
        if form == "two letters":
            listed = " ".join(f"({chr(ord('a') + index)}) {option}" for index, option in enumerate(options))
            return f"{question.text} {listed}", f"({letter.lower()})"
        context = f"Context: {rng.choice(_CONTEXTS)}\n".format(scene.time) if form == "context" else ""
        return context + with_options(question.text, options), letter
    return question.text + SHORT_ANSWER, question.answer


def options_of(question: Question, rng: Random, *, most: int) -> list[str]:
    """Return the answer among other plausible answers, at most `most` in all, shuffled."""
    others = [option for option in question.valid if option != question.answer]
    options = [question.answer, *rng.sample(others, min(len(others), most - 1))]
    rng.shuffle(options)
    return options
