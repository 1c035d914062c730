"""World-MMVP in MMVP's own files: pairs of images that differ in one thing, one question, opposite answers.

The nine visual patterns are those of the MMVP paper (Tong et al. 2024, section 3.2), each as far as this world has it.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import atomic_file
from olivine.world.asked import another, some_thing
from olivine.world.image_files import save_with_truth
from olivine.world.language import article
from olivine.world.questions import misread
from olivine.world.sampling import HELD_OUT, RADIUS, scene
from olivine.world.scene import COLOURS, KINDS, PATTERNS, PLACES, SIDE, Scene, Thing

SPLIT = "mmvp"


@dataclass(frozen=True, slots=True)
class Twins:
    """Two scenes, a question, and its answer about each."""

    question: str
    first: tuple[Scene, str]
    second: tuple[Scene, str]


def write(folder: Path, seed: int, images: int) -> int:
    """Write Questions.csv and the images of `images // 2` pairs; how many questions (= images) there are."""
    draw = Random(f"{seed}/{SPLIT}/questions")
    rows: list[tuple[int, str, str, str]] = []
    scenes = {}
    patterns = list(PATTERN)
    index = 0
    while len(rows) < 2 * (images // 2):
        pattern = patterns[len(rows) // 2 % len(patterns)]
        twins = PATTERN[pattern](scene(seed, SPLIT, index), draw)
        index += 1
        if twins is None:
            continue
        pair = draw.sample([twins.first, twins.second], 2)
        answers = draw.sample([answer for _, answer in pair], 2)
        options = " ".join(f"({letter}) {answer}" for letter, answer in zip("ab", answers, strict=True))
        for shown, answer in pair:
            number = len(rows) + 1
            rows.append((number, twins.question, options, f"({'ab'[answers.index(answer)]})"))
            scenes[f"MMVP Images/{number}.jpg"] = shown
    with atomic_file(folder / "Questions.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("Index", "Question", "Options", "Correct Answer"))
        table.writerows(rows)
    save_with_truth(folder, scenes)
    return len(rows)


def _changed(shown: Scene, index: int, thing: Thing) -> Scene:
    """The scene with one thing replaced, nearer things still over farther ones."""
    things = [*shown.things[:index], thing, *shown.things[index + 1 :]]
    return replace(shown, id=f"{shown.id}-twin", things=tuple(sorted(things, key=lambda other: other.y)))


def _single(shown: Scene, draw: Random, fits: Callable[[Thing], bool] = lambda _: True) -> int | None:
    """The place of a thing that is the only one of its kind, and fits."""
    return some_thing(shown, draw, lambda thing: len(shown.of_kind(thing.kind)) == 1 and fits(thing))


def _property(name: str, options: tuple[str, ...], question: str) -> Callable[[Scene, Random], Twins | None]:
    """Twins in which one thing has another value of a property."""

    def twins(shown: Scene, draw: Random) -> Twins | None:
        index = _single(shown, draw, lambda thing: name != "pattern" or KINDS[thing.kind].patterned)
        if index is None:
            return None
        thing = shown.things[index]
        value = str(getattr(thing, name))
        possible = [option for option in options if name != "colour" or (thing.kind, option) not in HELD_OUT]
        other = another(possible, value, draw)
        # The pair's values are told in a fixed order: the order of the images gives nothing away.
        told = dict(zip(("one", "two"), sorted((value, other)), strict=True))
        change: dict[str, Any] = {name: other}
        changed = _changed(shown, index, replace(thing, **change))
        return Twins(question.format(kind=thing.kind, **told), (shown, value), (changed, other))

    return twins


def _facing(shown: Scene, draw: Random) -> Twins | None:
    index = _single(shown, draw, lambda thing: KINDS[thing.kind].property == "facing")
    return None if index is None else _other_state(shown, index, "Which way is the {kind} facing?", draw)


def _state(shown: Scene, draw: Random) -> Twins | None:
    index = _single(shown, draw, lambda thing: bool(thing.state) and KINDS[thing.kind].property != "facing")
    if index is None:
        return None
    asked = "Is the door of the {kind} {one} or {two}?" if shown.things[index].kind == "house" else _IS_IT
    return _other_state(shown, index, asked, draw)


_IS_IT = "Is the {kind} {one} or {two}?"


def _other_state(shown: Scene, index: int, question: str, draw: Random) -> Twins:
    thing = shown.things[index]
    one, two = KINDS[thing.kind].states
    other = another((one, two), thing.state, draw)
    text = question.format(kind=thing.kind, one=one, two=two)
    return Twins(text, (shown, thing.state), (_changed(shown, index, replace(thing, state=other)), other))


def _presence(shown: Scene, draw: Random) -> Twins | None:
    index = _single(shown, draw)
    if index is None:
        return None
    without = replace(shown, id=f"{shown.id}-twin", things=(*shown.things[:index], *shown.things[index + 1 :]))
    text = f"Is there {article(shown.things[index].kind)} in the picture?"
    return Twins(text, (shown, "Yes"), (without, "No"))


def _count(shown: Scene, draw: Random) -> Twins | None:
    index = some_thing(shown, draw, lambda thing: len(shown.of_kind(thing.kind)) > 1)
    if index is None:
        return None
    kind = shown.things[index].kind
    count = len(shown.of_kind(kind))
    fewer = replace(shown, id=f"{shown.id}-twin", things=(*shown.things[:index], *shown.things[index + 1 :]))
    return Twins(f"How many {KINDS[kind].plural} are there?", (shown, str(count)), (fewer, str(count - 1)))


def _position(shown: Scene, draw: Random) -> Twins | None:
    index = _single(shown, draw, lambda thing: thing.kind != "sign")
    if index is None:
        return None
    thing = shown.things[index]
    third = SIDE / 3
    free = [
        replace(thing, x=third * (cell % 3 + 0.5), y=third * (cell // 3 + 0.5))
        for cell, place in enumerate(PLACES)
        if place not in {other.place for other in shown.things}
    ]
    fitting = [moved for moved in free if _clear_of(moved, shown, index)]
    if not fitting:
        return None
    moved = draw.choice(fitting)
    text = f"Where in the picture is the {thing.kind}?"
    return Twins(text, (shown, thing.place), (_changed(shown, index, moved), moved.place))


def _clear_of(thing: Thing, shown: Scene, but: int) -> bool:
    """Whether the thing stands free of all others of the scene, so that both images show as much of everything."""
    others = (other for i, other in enumerate(shown.things) if i != but)
    return all(math.dist((thing.x, thing.y), (other.x, other.y)) >= thing.radius + other.radius for other in others)


def _text(shown: Scene, draw: Random) -> Twins | None:
    index = some_thing(shown, draw, lambda thing: bool(thing.writing))
    if index is None:
        return None
    sign = shown.things[index]
    written = misread(sign.writing, draw)
    if written == "A":
        return None
    changed = _changed(shown, index, replace(sign, writing=written))
    return Twins("What does the sign say?", (shown, sign.writing), (changed, written))


def _size(shown: Scene, draw: Random) -> Twins | None:
    index = _single(shown, draw, lambda thing: thing.kind != "sign")
    if index is None:
        return None
    thing = shown.things[index]
    size = "small" if thing.size == "large" else "large"
    changed = replace(thing, size=size, radius=sum(RADIUS[size]) / 2)
    if not _clear_of(changed, shown, index):
        return None
    text = f"Is the {thing.kind} large or small?"
    return Twins(text, (shown, thing.size), (_changed(shown, index, changed), size))


#: By the paper's name of the visual pattern: what makes twins of a scene, or None where it has nothing for it.
PATTERN: dict[str, Callable[[Scene, Random], Twins | None]] = {
    "orientation and direction": _facing,
    "presence of specific features": _presence,
    "state and condition": _state,
    "quantity and count": _count,
    "positional and relational context": _position,
    "color and appearance": _property("colour", COLOURS, "Is the {kind} {one} or {two}?"),
    "structural and physical characteristics": _property("pattern", PATTERNS, "Is the {kind} {one} or {two}?"),
    "text": _text,
    "viewpoint and perspective": _size,
}
