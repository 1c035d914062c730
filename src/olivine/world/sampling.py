"""Sampling of scenes: backdrops, co-occurrence, held-out combinations; any split from a seed.

What a scene is, is defined in `scene`.
"""

import math
from collections.abc import Iterator, Mapping
from random import Random
from typing import TypeVar

from olivine.errors import RequestError
from olivine.world.scene import BACKDROPS, CLASSES, COLOURS, PATTERNS, SIDE, Colour, Scene, SceneObject

#: Incremented when the same seed yields different scenes or images: data written before is then regenerated.
VERSION = 2
#: Weight of each class in each backdrop, before affinities: what makes some absences more tempting than others.
FREQUENCY: dict[str, dict[str, float]] = {
    "park": {"tree": 6, "flower": 5, "bird": 4, "ball": 4, "kite": 3, "sign": 2, "lamp": 1, "box": 1, "cup": 1},
    "street": {"car": 6, "house": 5, "sign": 4, "lamp": 3, "tree": 2, "bird": 2, "ball": 1, "box": 1},
    "kitchen": {"cup": 6, "box": 5, "lamp": 4, "flower": 3, "fish": 2, "sign": 2, "ball": 1},
    "beach": {"fish": 5, "kite": 5, "bird": 4, "ball": 4, "box": 2, "sign": 2, "cup": 1, "house": 1, "car": 1},
}
#: Classes that occur together, in any backdrop: the second's weight is multiplied by this once the first is drawn.
AFFINITY: dict[str, dict[str, float]] = {
    "car": {"sign": 3.0, "house": 2.0},
    "tree": {"bird": 3.0, "flower": 1.5},
    "cup": {"box": 2.0},
    "kite": {"ball": 2.0},
    "house": {"lamp": 2.0},
}
#: Colours that a class has more often than others (weights; all others 1).
USUAL_COLOUR: dict[str, dict[Colour, float]] = {
    "tree": {"green": 4.0},
    "flower": {"red": 2.0, "yellow": 2.0, "pink": 2.0},
    "car": {"black": 2.0, "red": 2.0},
    "lamp": {"yellow": 3.0},
    "fish": {"blue": 2.0},
}
_HELD_OUT_COLOURS: dict[str, Colour] = {
    "ball": "purple",
    "kite": "green",
    "box": "pink",
    "cup": "black",
    "fish": "yellow",
    "bird": "white",
    "tree": "blue",
    "house": "purple",
    "car": "green",
    "flower": "black",
}
#: (class, colour) pairs that only the split `novel` contains: every scene of `novel` has at least one.
HELD_OUT: frozenset[tuple[str, Colour]] = frozenset(_HELD_OUT_COLOURS.items())
NOVEL = "novel"
#: Signs say one or two of these; letters that look like a digit are excluded.
DIGITS = "0123456789"
LETTERS = "ACEFHKLMPRTX"

T = TypeVar("T")
_COUNTS = {2: 2.0, 3: 4.0, 4: 4.0, 5: 3.0}
#: How much likelier a class becomes once one object of it is drawn, so that there is something to count.
_MORE_OF_THE_SAME = 1.6
_Spot = tuple[str, float, float, float]  # size, x, y, radius
#: Minimum and maximum, in pixels. Small objects are about 22 pixels wide: at 19, most of the four 16-pixel patches that
#: they overlap contained only a corner of them, and a tower classified them at 78 % against 95 % for large ones
#: (docs/decisions.md).
RADIUS = {"small": (10.5, 12.0), "large": (15.0, 16.5)}
_JITTER = 3.0
#: Centres are at least this share of the two radii apart, so that more of an object is visible than covered.
_APART = 0.8
#: Half the extent of the longest writing, with a small margin, in pixels.
_WRITING = (12.0, 8.0)


def sample_scene(seed: int, split: str, index: int, *, objects: int | None = None) -> Scene:
    """Return scene `index` of a split: the same for the same arguments, on any machine.

    Args:
        seed: the world's seed.
        split: any name; only `novel` contains the held-out combinations.
        index: from 0, unbounded.
        objects: how many it contains; 2 to 5 by default.
    """
    rng = Random(f"{seed}/{split}/{index}")
    return _sample_scene(rng, f"{split}-{index}", objects, novel=split == NOVEL)


def sample_scenes(seed: int, split: str, count: int, first: int = 0) -> Iterator[Scene]:
    """Yield `count` scenes of a split, starting at `first`."""
    if count < 0:
        raise RequestError(f"count: {count}; expected 0 or more.")
    return (sample_scene(seed, split, index) for index in range(first, first + count))


def could_be_in(class_name: str, backdrop: str) -> bool:
    """Return whether a class can occur in a backdrop: alone, or together with a class that occurs there."""
    usual = FREQUENCY[backdrop]
    return class_name in usual or any(class_name in AFFINITY.get(other, {}) for other in usual)


def _sample_scene(rng: Random, scene_id: str, count: int | None, *, novel: bool) -> Scene:
    backdrop = rng.choice(BACKDROPS)
    classes = _draw_classes(rng, backdrop, count or _weighted(rng, _COUNTS))
    while novel and not any(class_name in _HELD_OUT_COLOURS for class_name in classes):
        classes = _draw_classes(rng, backdrop, len(classes))
    new = next(i for i, class_name in enumerate(classes) if class_name in _HELD_OUT_COLOURS) if novel else None
    spots = _draw_spots(rng, classes)
    objects = [_draw_object(rng, class_name, *spots[i], new=i == new) for i, class_name in enumerate(classes)]
    # Objects lower in the image are nearer.
    ordered = tuple(sorted(objects, key=lambda obj: obj.y))
    light = (rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 1.0))
    time = "night" if rng.random() < 0.35 else "day"
    return Scene(scene_id, backdrop, time, light, rng.randrange(1 << 16), ordered)


def _draw_classes(rng: Random, backdrop: str, count: int) -> list[str]:
    weights = dict(FREQUENCY[backdrop])
    classes: list[str] = []
    for _ in range(count):
        class_name = _weighted(rng, weights)
        if class_name not in classes:
            for other, factor in AFFINITY.get(class_name, {}).items():
                # A class that never occurs in a backdrop alone may still accompany another there.
                weights[other] = weights.get(other, 0.3) * factor
            weights[class_name] *= _MORE_OF_THE_SAME
        classes.append(class_name)
        if class_name == "sign":
            weights["sign"] = 0.0  # one sign per scene: what it says has one answer
    return classes


def _draw_spots(rng: Random, classes: list[str]) -> list[_Spot]:
    """Draw a size and a spot for each, in different ninths of the image, none hiding another."""
    while True:
        cells = rng.sample(range(9), len(classes))
        spots = [_draw_spot(rng, cell, class_name) for cell, class_name in zip(cells, classes, strict=True)]
        if not all(_clear(a, b) for i, a in enumerate(spots) for b in spots[:i]):
            continue
        signs = [i for i, class_name in enumerate(classes) if class_name == "sign"]
        if all(_readable(spots[i], other) for i in signs for j, other in enumerate(spots) if j != i):
            return spots


def _draw_spot(rng: Random, cell: int, class_name: str) -> _Spot:
    # A small sign could not be read.
    size = "large" if rng.random() < 0.55 or class_name == "sign" else "small"
    radius = rng.uniform(*RADIUS[size])
    third = SIDE / 3
    x = third * (cell % 3 + 0.5) + rng.uniform(-_JITTER, _JITTER)
    y = third * (cell // 3 + 0.5) + rng.uniform(-_JITTER, _JITTER)
    if class_name == "sign":
        x = min(max(x, radius), SIDE - radius)  # the whole writing stays within the image
    return size, round(x, 2), round(y, 2), round(radius, 2)


def _clear(first: _Spot, second: _Spot) -> bool:
    return math.dist(first[1:3], second[1:3]) >= _APART * (first[3] + second[3])


def _readable(sign: _Spot, other: _Spot) -> bool:
    """Return whether the other is behind the sign, or beside its writing."""
    across, down = other[1] - sign[1], other[2] - sign[2]
    return down <= 0 or abs(across) >= _WRITING[0] + other[3] or down >= _WRITING[1] + other[3]


def _draw_object(
    rng: Random, class_name: str, size: str, x: float, y: float, radius: float, *, new: bool
) -> SceneObject:
    facts = CLASSES[class_name]
    colour = _draw_colour(rng, class_name, new=new)
    pattern = rng.choice(PATTERNS) if facts.patterned else "plain"
    state = rng.choice(facts.states) if facts.states else ""
    writing = _draw_writing(rng) if class_name == "sign" else ""
    return SceneObject(class_name, colour, size, pattern, state, writing, x, y, radius)


def _draw_colour(rng: Random, class_name: str, *, new: bool) -> Colour:
    held_out = _HELD_OUT_COLOURS.get(class_name)
    if new and held_out:
        return held_out
    usual = USUAL_COLOUR.get(class_name, {})
    return _weighted(rng, {colour: usual.get(colour, 1.0) for colour in COLOURS if colour != held_out})


def _draw_writing(rng: Random) -> str:
    style = rng.random()
    if style < 0.3:
        return rng.choice(DIGITS)
    if style < 0.6:
        return rng.choice(LETTERS.replace("A", ""))  # VQA's normaliser treats a lone A as an article
    return rng.choice(LETTERS) + rng.choice(DIGITS)


def _weighted(rng: Random, weights: Mapping[T, float]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]
