"""Wording of scenes: noun phrases, references, captions, whole descriptions, with variation.

Questions about them are in `questions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from olivine.world.scene import CLASSES, Scene, SceneObject, named_apart

#: Wordings of a place after an object.
_AT = {
    "top left": ("at the top left", "in the top left corner"),
    "top": ("at the top", "at the top of the picture"),
    "top right": ("at the top right", "in the top right corner"),
    "left": ("on the left", "on the left side"),
    "middle": ("in the middle", "in the middle of the picture"),
    "right": ("on the right", "on the right side"),
    "bottom left": ("at the bottom left", "in the bottom left corner"),
    "bottom": ("at the bottom", "at the bottom of the picture"),
    "bottom right": ("at the bottom right", "in the bottom right corner"),
}
_SCENERY = {
    "park": ("in a park", "in the park", "on the grass of a park"),
    "street": ("in a street", "on the street", "by the road"),
    "kitchen": ("in a kitchen", "in the kitchen", "on a kitchen floor"),
    "beach": ("at the beach", "on a beach", "by the sea"),
}
_TIMES = {"day": ("by day", "during the day", "in daylight"), "night": ("at night", "by night", "in the dark")}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class Mentions:
    """Which properties a phrase mentions: all by default."""

    size: bool = True
    pattern: bool = True
    colour: bool = True
    state: bool = True
    place: bool = True


EVERYTHING = Mentions()


def number(count: int) -> str:
    """Return a small count in words."""
    return _NUMBERS[count]


def article(phrase: str) -> str:
    """Return the phrase with a or an."""
    return f"{'an' if phrase[0] in 'aeio' else 'a'} {phrase}"


def listed(phrases: Sequence[str]) -> str:
    """Join phrases: `a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def at(place: str, rng: Random) -> str:
    """Draw a wording of a place after an object: `at the top left`."""
    return rng.choice(_AT[place])


def noun_phrase(obj: SceneObject, mentions: Mentions = EVERYTHING) -> str:
    """Describe an object without article or place: `large striped red box that is open`."""
    words = []
    if mentions.size:
        words.append(obj.size)
    if mentions.pattern and CLASSES[obj.class_name].patterned:
        words.append(obj.pattern)
    if mentions.colour:
        words.append(obj.colour)
    return " ".join([*words, obj.class_name, *([state_phrase(obj)] if mentions.state and state_phrase(obj) else [])])


def state_phrase(obj: SceneObject) -> str:
    """Return what follows the noun: `that is open`, `facing left`, `that says A5`; empty if there is nothing to say."""
    if obj.writing:
        return f"that says {obj.writing}"
    if not obj.state:
        return ""
    if CLASSES[obj.class_name].property == "facing":
        return f"facing {obj.state}"
    if obj.class_name == "house":
        return f"with {article(obj.state)} door"
    return f"that is {obj.state}"


def reference(scene: Scene, obj: SceneObject, rng: Random, *, without: Sequence[str] = ()) -> str | None:
    """Draw a phrase with `the` that matches only this object of the scene, or return None.

    Usually the shortest; never mentions what `without` names (size, pattern, colour, place).
    """
    same = scene.of_class(obj.class_name)
    if len(same) == 1:
        if "colour" in without or rng.random() < 0.7:
            return f"the {obj.class_name}"
        return f"the {obj.colour} {obj.class_name}"
    ways = []
    for name in ("colour", "size", "pattern", "place"):
        value = str(getattr(obj, name))
        others = [str(getattr(other, name)) for other in same if other is not obj]
        apart = all(named_apart(value, other) for other in others) if name == "place" else value not in others
        if name not in without and apart:
            if name == "place":
                ways.append(f"the {obj.class_name} {at(value, rng)}")
            elif name != "pattern" or CLASSES[obj.class_name].patterned:
                ways.append(f"the {value} {obj.class_name}")
    return rng.choice(ways) if ways else None


def caption(scene: Scene, rng: Random, *, keep: float = 0.8, keep_places: float | None = None) -> str:
    """Draw a sentence about the image; each property is mentioned with probability `keep`.

    Args:
        keep_places: the probability for places, scenery and time; `keep` by default.
    """
    keep_places = keep if keep_places is None else keep_places
    phrases = []
    for obj in _ordered(scene, rng):
        place = rng.random() < keep_places
        size, pattern, colour, state = (rng.random() < keep for _ in range(4))
        mentions = Mentions(size, pattern, colour, state, place)
        phrase = article(noun_phrase(obj, mentions))
        phrases.append(f"{phrase} {at(obj.place, rng)}" if mentions.place else phrase)
    objects = listed(phrases)
    scenery = rng.choice(_SCENERY[scene.backdrop])
    time = f" {rng.choice(_TIMES[scene.time])}" if rng.random() < keep_places else ""
    form = rng.randrange(4)
    if rng.random() > keep_places:
        return f"{_upper(objects)}."
    if form == 0:
        return f"{_upper(objects)}, {scenery}{time}."
    if form == 1:
        return f"{_upper(scenery)}{time}: {objects}."
    if form == 2:
        return f"A picture of {objects}, {scenery}{time}."
    return f"{_upper(scenery)}{time} there {'is' if len(phrases) == 1 else 'are'} {objects}."


def description(scene: Scene, rng: Random, mentions: Mentions = EVERYTHING, *, plainly: bool = False) -> str:
    """Draw a description with every fact of the scene, one sentence per object.

    `mentions` may omit properties of all objects; `plainly` gives only "There is ..." for each.
    """
    sentences = []
    lead = "There is " if plainly or rng.random() < 0.5 else ""
    for obj in _ordered(scene, rng):
        place = f" {at(obj.place, rng)}" if mentions.place else ""
        sentences.append(_upper(f"{lead}{article(noun_phrase(obj, mentions))}{place}."))
    if plainly:
        return " ".join(sentences)
    opening = f"{_upper(rng.choice(_SCENERY[scene.backdrop]))} {rng.choice(_TIMES[scene.time])}."
    return " ".join([*sentences, opening] if rng.random() < 0.3 else [opening, *sentences])


def _ordered(scene: Scene, rng: Random) -> list[SceneObject]:
    objects = sorted(scene.objects, key=lambda obj: (obj.y // 32, obj.x))
    if rng.random() < 0.4:
        rng.shuffle(objects)
    return objects


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
