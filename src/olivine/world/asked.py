"""A question on a scene with its one right answer, and what all topics need to put one together.

The topics are in `questions` and `reasoning`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from olivine.world.sampling import FREQUENCY
from olivine.world.scene import KINDS, Scene, Thing

YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer.

    Attributes:
        text: the question, without any instruction on how to answer.
        answer: a word or short phrase.
        sentence: the same answer in a full sentence.
        topic: what it asks about: a name in `TOPICS`.
        structural: GQA's structural type (query, verify, choose, logical, compare).
        semantic: GQA's semantic type (attr, obj, cat, rel, global).
        valid: all answers that would make sense.
        things: places in `scene.things` of what it speaks of; empty if it speaks of the whole image or of what is
            not there.
    """

    text: str
    answer: str
    sentence: str
    topic: str
    structural: str
    semantic: str
    valid: tuple[str, ...]
    things: tuple[int, ...] = ()


def yes_no(
    text: str, truth: bool, statement: str, denial: str, topic: str, structural: str, semantic: str, *things: int
) -> Asked:
    """A question that yes or no answers; `statement` and `denial` are what its full sentence resumes with."""
    sentence = f"Yes, {statement}." if truth else f"No, {denial}."
    return Asked(text, "yes" if truth else "no", sentence, topic, structural, semantic, YES_NO, things)


def some_thing(scene: Scene, draw: Random, fits: Callable[[Thing], bool]) -> int | None:
    """The place in the scene of one of the things that fit, None if there are none."""
    fitting = [i for i, thing in enumerate(scene.things) if fits(thing)]
    return draw.choice(fitting) if fitting else None


def another(options: Sequence[str], than: str, draw: Random) -> str:
    """One of the other options."""
    return draw.choice([option for option in options if option != than])


def tempting_absence(scene: Scene, draw: Random) -> str:
    """A kind that is not there, mostly one that could well be."""
    absent = {kind: 0.3 for kind in KINDS if kind not in scene.kinds}
    for kind, weight in FREQUENCY[scene.setting].items():
        if kind in absent:
            absent[kind] += weight
    return draw.choices(list(absent), list(absent.values()))[0]


def upper(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]
