"""A question about a scene with its one right answer, and what every topic needs to build one.

The topics are in `questions` and `reasoning`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from olivine.world.sampling import FREQUENCY
from olivine.world.scene import CLASSES, Scene, SceneObject

YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer.

    Attributes:
        text: the question, without any instruction on how to answer.
        answer: a word or short phrase.
        sentence: the same answer in a full sentence.
        topic: what it asks about: a name in `TOPICS`.
        structural: GQA's structural type (query, verify, choose, logical, compare).
        semantic: GQA's semantic type (attr, obj, cat, rel, global).
        valid: all plausible answers.
        objects: indices in `scene.objects` of what it is about; empty if it is about the whole image or about
            something absent.
    """

    text: str
    answer: str
    sentence: str
    topic: str
    structural: str
    semantic: str
    valid: tuple[str, ...]
    objects: tuple[int, ...] = ()


def yes_no(
    text: str, truth: bool, statement: str, denial: str, topic: str, structural: str, semantic: str, *objects: int
) -> Question:
    """Build a yes/no question; its full sentence is "Yes, `statement`." or "No, `denial`."."""
    sentence = f"Yes, {statement}." if truth else f"No, {denial}."
    return Question(text, "yes" if truth else "no", sentence, topic, structural, semantic, YES_NO, objects)


def some_object(scene: Scene, rng: Random, fits: Callable[[SceneObject], bool]) -> int | None:
    """Draw the index of an object that fits, None if there are none."""
    fitting = [i for i, obj in enumerate(scene.objects) if fits(obj)]
    return rng.choice(fitting) if fitting else None


def another(options: Sequence[str], than: str, rng: Random) -> str:
    """Draw one of the other options."""
    return rng.choice([option for option in options if option != than])


def tempting_absence(scene: Scene, rng: Random) -> str:
    """Draw a class that is absent, usually one that is likely in this backdrop."""
    absent = {class_name: 0.3 for class_name in CLASSES if class_name not in scene.classes}
    for class_name, weight in FREQUENCY[scene.backdrop].items():
        if class_name in absent:
            absent[class_name] += weight
    return rng.choices(list(absent), list(absent.values()))[0]


def upper(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[0].upper() + text[1:]
