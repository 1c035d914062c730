"""World-MMVP in MMVP's own files: pairs of images that differ in one object, one question, opposite answers.

The nine visual patterns are from the MMVP paper (Tong et al. 2024, section 3.2), each as far as this world covers it.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import atomic_file
from olivine.world.image_files import save_with_truth
from olivine.world.language import article
from olivine.world.question import another, some_object
from olivine.world.questions import misread
from olivine.world.sampling import HELD_OUT, RADIUS, sample_scene
from olivine.world.scene import CLASSES, COLOURS, PATTERNS, PLACES, SIDE, Scene, SceneObject

SPLIT = "mmvp"


@dataclass(frozen=True, slots=True)
class Twins:
    """Two scenes, a question, and its answer about each."""

    question: str
    first: tuple[Scene, str]
    second: tuple[Scene, str]


def write(folder: Path, seed: int, images: int) -> int:
    """Write Questions.csv and the images of `images // 2` pairs; return the number of questions (= images)."""
    rng = Random(f"{seed}/{SPLIT}/questions")
    rows: list[tuple[int, str, str, str]] = []
    scenes = {}
    patterns = list(PATTERN)
    index = 0
    while len(rows) < 2 * (images // 2):
        pattern = patterns[len(rows) // 2 % len(patterns)]
        twins = PATTERN[pattern](sample_scene(seed, SPLIT, index), rng)
        index += 1
        if twins is None:
            continue
        pair = rng.sample([twins.first, twins.second], 2)
        answers = rng.sample([answer for _, answer in pair], 2)
        options = " ".join(f"({letter}) {answer}" for letter, answer in zip("ab", answers, strict=True))
        for scene, answer in pair:
            number = len(rows) + 1
            rows.append((number, twins.question, options, f"({'ab'[answers.index(answer)]})"))
            scenes[f"MMVP Images/{number}.jpg"] = scene
    with atomic_file(folder / "Questions.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("Index", "Question", "Options", "Correct Answer"))
        table.writerows(rows)
    save_with_truth(folder, scenes)
    return len(rows)


def _changed(scene: Scene, index: int, obj: SceneObject) -> Scene:
    """Replace one object, keeping the order from back to front."""
    objects = [*scene.objects[:index], obj, *scene.objects[index + 1 :]]
    return replace(scene, id=f"{scene.id}-twin", objects=tuple(sorted(objects, key=lambda other: other.y)))


def _single(scene: Scene, rng: Random, fits: Callable[[SceneObject], bool] = lambda _: True) -> int | None:
    """Draw the index of an object that is the only one of its class, and fits."""
    return some_object(scene, rng, lambda obj: len(scene.of_class(obj.class_name)) == 1 and fits(obj))


def _property(name: str, options: tuple[str, ...], question: str) -> Callable[[Scene, Random], Twins | None]:
    """Return a function that draws twins in which one object has another value of a property."""

    def twins(scene: Scene, rng: Random) -> Twins | None:
        index = _single(scene, rng, lambda obj: name != "pattern" or CLASSES[obj.class_name].patterned)
        if index is None:
            return None
        obj = scene.objects[index]
        value = str(getattr(obj, name))
        possible = [option for option in options if name != "colour" or (obj.class_name, option) not in HELD_OUT]
        other = another(possible, value, rng)
        # The question names the values in a fixed order, so that it does not reveal the order of the images.
        values = dict(zip(("one", "two"), sorted((value, other)), strict=True))
        change: dict[str, Any] = {name: other}
        changed = _changed(scene, index, replace(obj, **change))
        return Twins(question.format(class_name=obj.class_name, **values), (scene, value), (changed, other))

    return twins


def _facing(scene: Scene, rng: Random) -> Twins | None:
    index = _single(scene, rng, lambda obj: CLASSES[obj.class_name].property == "facing")
    return None if index is None else _other_state(scene, index, "Which way is the {class_name} facing?", rng)


def _state(scene: Scene, rng: Random) -> Twins | None:
    index = _single(scene, rng, lambda obj: bool(obj.state) and CLASSES[obj.class_name].property != "facing")
    if index is None:
        return None
    question = (
        "Is the door of the {class_name} {one} or {two}?" if scene.objects[index].class_name == "house" else _IS_IT
    )
    return _other_state(scene, index, question, rng)


_IS_THE_DOOR = "Is the door of the {class_name} {one} or {two}?"
_IS_IT = "Is the {class_name} {one} or {two}?"


def _other_state(scene: Scene, index: int, question: str, rng: Random) -> Twins:
    obj = scene.objects[index]
    one, two = CLASSES[obj.class_name].states
    other = another((one, two), obj.state, rng)
    text = question.format(class_name=obj.class_name, one=one, two=two)
    return Twins(text, (scene, obj.state), (_changed(scene, index, replace(obj, state=other)), other))


def _presence(scene: Scene, rng: Random) -> Twins | None:
    index = _single(scene, rng)
    if index is None:
        return None
    without = replace(scene, id=f"{scene.id}-twin", objects=(*scene.objects[:index], *scene.objects[index + 1 :]))
    text = f"Is there {article(scene.objects[index].class_name)} in the picture?"
    return Twins(text, (scene, "Yes"), (without, "No"))


def _count(scene: Scene, rng: Random) -> Twins | None:
    index = some_object(scene, rng, lambda obj: len(scene.of_class(obj.class_name)) > 1)
    if index is None:
        return None
    class_name = scene.objects[index].class_name
    count = len(scene.of_class(class_name))
    fewer = replace(scene, id=f"{scene.id}-twin", objects=(*scene.objects[:index], *scene.objects[index + 1 :]))
    return Twins(f"How many {CLASSES[class_name].plural} are there?", (scene, str(count)), (fewer, str(count - 1)))


def _position(scene: Scene, rng: Random) -> Twins | None:
    index = _single(scene, rng, lambda obj: obj.class_name != "sign")
    if index is None:
        return None
    obj = scene.objects[index]
    third = SIDE / 3
    free = [
        replace(obj, x=third * (ninth % 3 + 0.5), y=third * (ninth // 3 + 0.5))
        for ninth, place in enumerate(PLACES)
        if place not in {other.place for other in scene.objects}
    ]
    fitting = [moved for moved in free if _clear_of(moved, scene, index)]
    if not fitting:
        return None
    moved = rng.choice(fitting)
    text = f"Where in the picture is the {obj.class_name}?"
    return Twins(text, (scene, obj.place), (_changed(scene, index, moved), moved.place))


def _clear_of(obj: SceneObject, scene: Scene, but: int) -> bool:
    """Return whether the object overlaps no other, so that both images show equally much of everything."""
    others = (other for i, other in enumerate(scene.objects) if i != but)
    return all(math.dist((obj.x, obj.y), (other.x, other.y)) >= obj.radius + other.radius for other in others)


def _text(scene: Scene, rng: Random) -> Twins | None:
    index = some_object(scene, rng, lambda obj: bool(obj.writing))
    if index is None:
        return None
    sign = scene.objects[index]
    written = misread(sign.writing, rng)
    if written == "A":
        return None
    changed = _changed(scene, index, replace(sign, writing=written))
    return Twins("What does the sign say?", (scene, sign.writing), (changed, written))


def _size(scene: Scene, rng: Random) -> Twins | None:
    index = _single(scene, rng, lambda obj: obj.class_name != "sign")
    if index is None:
        return None
    obj = scene.objects[index]
    size = "small" if obj.size == "large" else "large"
    changed = replace(obj, size=size, radius=sum(RADIUS[size]) / 2)
    if not _clear_of(changed, scene, index):
        return None
    text = f"Is the {obj.class_name} large or small?"
    return Twins(text, (scene, obj.size), (_changed(scene, index, changed), size))


#: By the paper's name of the visual pattern: a function that draws twins of a scene, None if it has none.
PATTERN: dict[str, Callable[[Scene, Random], Twins | None]] = {
    "orientation and direction": _facing,
    "presence of specific features": _presence,
    "state and condition": _state,
    "quantity and count": _count,
    "positional and relational context": _position,
    "color and appearance": _property("colour", COLOURS, "Is the {class_name} {one} or {two}?"),
    "structural and physical characteristics": _property("pattern", PATTERNS, "Is the {class_name} {one} or {two}?"),
    "text": _text,
    "viewpoint and perspective": _size,
}
