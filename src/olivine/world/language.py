"""How scenes are spoken of: noun phrases, references, captions, whole descriptions, in varied wording.

What is asked about them lies in `questions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from olivine.world.scene import KINDS, Scene, Thing, named_apart

#: How a place reads after a thing.
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
    """Which properties a phrase tells: all by default."""

    size: bool = True
    pattern: bool = True
    colour: bool = True
    state: bool = True
    place: bool = True


EVERYTHING = Mentions()


def number(count: int) -> str:
    """A small count in words."""
    return _NUMBERS[count]


def article(phrase: str) -> str:
    """The phrase with a or an."""
    return f"{'an' if phrase[0] in 'aeio' else 'a'} {phrase}"


def listed(phrases: Sequence[str]) -> str:
    """One, two or more phrases in a row: `a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def at(place: str, draw: Random) -> str:
    """How a place reads after a thing: `at the top left`."""
    return draw.choice(_AT[place])


def noun_phrase(thing: Thing, told: Mentions = EVERYTHING) -> str:
    """A thing without article or place: `large striped red box that is open`."""
    words = []
    if told.size:
        words.append(thing.size)
    if told.pattern and KINDS[thing.kind].patterned:
        words.append(thing.pattern)
    if told.colour:
        words.append(thing.colour)
    return " ".join([*words, thing.kind, *([state_phrase(thing)] if told.state and state_phrase(thing) else [])])


def state_phrase(thing: Thing) -> str:
    """What stands behind the noun: `that is open`, `facing left`, `that says A5`; empty if there is nothing to say."""
    if thing.writing:
        return f"that says {thing.writing}"
    if not thing.state:
        return ""
    if KINDS[thing.kind].property == "facing":
        return f"facing {thing.state}"
    if thing.kind == "house":
        return f"with {article(thing.state)} door"
    return f"that is {thing.state}"


def reference(scene: Scene, thing: Thing, draw: Random, *, without: Sequence[str] = ()) -> str | None:
    """A phrase with `the` that fits this thing of the scene alone, or None.

    The shortest that will do, most of the time; never tells what is named in `without` (size, pattern, colour, place).
    """
    same = scene.of_kind(thing.kind)
    if len(same) == 1:
        if "colour" in without or draw.random() < 0.7:
            return f"the {thing.kind}"
        return f"the {thing.colour} {thing.kind}"
    ways = []
    for name in ("colour", "size", "pattern", "place"):
        told = str(getattr(thing, name))
        others = [str(getattr(other, name)) for other in same if other is not thing]
        apart = all(named_apart(told, other) for other in others) if name == "place" else told not in others
        if name not in without and apart:
            if name == "place":
                ways.append(f"the {thing.kind} {at(told, draw)}")
            elif name != "pattern" or KINDS[thing.kind].patterned:
                ways.append(f"the {told} {thing.kind}")
    return draw.choice(ways) if ways else None


def caption(scene: Scene, draw: Random, *, keep: float = 0.8, keep_places: float | None = None) -> str:
    """A sentence about the image; each property is told with the likelihood `keep`.

    Args:
        keep_places: the likelihood for places and for scenery and time, if it is another.
    """
    keep_places = keep if keep_places is None else keep_places
    phrases = []
    for thing in _ordered(scene, draw):
        place = draw.random() < keep_places
        size, pattern, colour, state = (draw.random() < keep for _ in range(4))
        told = Mentions(size, pattern, colour, state, place)
        phrase = article(noun_phrase(thing, told))
        phrases.append(f"{phrase} {at(thing.place, draw)}" if told.place else phrase)
    things = listed(phrases)
    scenery = draw.choice(_SCENERY[scene.setting])
    time = f" {draw.choice(_TIMES[scene.time])}" if draw.random() < keep_places else ""
    form = draw.randrange(4)
    if draw.random() > keep_places:
        return f"{_upper(things)}."
    if form == 0:
        return f"{_upper(things)}, {scenery}{time}."
    if form == 1:
        return f"{_upper(scenery)}{time}: {things}."
    if form == 2:
        return f"A picture of {things}, {scenery}{time}."
    return f"{_upper(scenery)}{time} there {'is' if len(phrases) == 1 else 'are'} {things}."


def description(scene: Scene, draw: Random, told: Mentions = EVERYTHING, *, plainly: bool = False) -> str:
    """Every fact of the scene in words, one sentence a thing: what the image shows to those who cannot see it.

    `told` may leave out properties of all its things; `plainly` gives nothing but "There is ..." for each.
    """
    sentences = []
    lead = "There is " if plainly or draw.random() < 0.5 else ""
    for thing in _ordered(scene, draw):
        place = f" {at(thing.place, draw)}" if told.place else ""
        sentences.append(_upper(f"{lead}{article(noun_phrase(thing, told))}{place}."))
    if plainly:
        return " ".join(sentences)
    opening = f"{_upper(draw.choice(_SCENERY[scene.setting]))} {draw.choice(_TIMES[scene.time])}."
    return " ".join([*sentences, opening] if draw.random() < 0.3 else [opening, *sentences])


def _ordered(scene: Scene, draw: Random) -> list[Thing]:
    things = sorted(scene.things, key=lambda thing: (thing.y // 32, thing.x))
    if draw.random() < 0.4:
        draw.shuffle(things)
    return things


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
