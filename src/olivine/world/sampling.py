"""How likely each scene is: settings, what occurs with what, held-out combinations; any split from a seed.

What a scene is lies in `scene`.
"""

import math
from collections.abc import Iterator, Mapping
from random import Random
from typing import TypeVar

from olivine.errors import RequestError
from olivine.world.scene import COLOURS, KINDS, PATTERNS, SETTINGS, SIDE, Colour, Scene, Thing

#: Goes up when the same seed gives other scenes or other images: data written before is then written anew.
VERSION = 2
#: How often each kind is drawn in each setting, before affinities: what makes some absences more tempting than others.
FREQUENCY: dict[str, dict[str, float]] = {
    "park": {"tree": 6, "flower": 5, "bird": 4, "ball": 4, "kite": 3, "sign": 2, "lamp": 1, "box": 1, "cup": 1},
    "street": {"car": 6, "house": 5, "sign": 4, "lamp": 3, "tree": 2, "bird": 2, "ball": 1, "box": 1},
    "kitchen": {"cup": 6, "box": 5, "lamp": 4, "flower": 3, "fish": 2, "sign": 2, "ball": 1},
    "beach": {"fish": 5, "kite": 5, "bird": 4, "ball": 4, "box": 2, "sign": 2, "cup": 1, "house": 1, "car": 1},
}
#: Kinds that bring one another along, wherever they are: the second's frequency is multiplied so once the first is in.
AFFINITY: dict[str, dict[str, float]] = {
    "car": {"sign": 3.0, "house": 2.0},
    "tree": {"bird": 3.0, "flower": 1.5},
    "cup": {"box": 2.0},
    "kite": {"ball": 2.0},
    "house": {"lamp": 2.0},
}
#: Colours that a kind is seen in more often than others (weights; all else 1).
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
#: (kind, colour) pairs that no split but `novel` ever shows: every scene of `novel` has at least one.
HELD_OUT: frozenset[tuple[str, Colour]] = frozenset(_HELD_OUT_COLOURS.items())
NOVEL = "novel"
#: Signs say one or two of these; letters that look like a digit are left out.
DIGITS = "0123456789"
LETTERS = "ACEFHKLMPRTX"

T = TypeVar("T")
_COUNTS = {2: 2.0, 3: 4.0, 4: 4.0, 5: 3.0}
#: How much likelier a kind becomes once one of it is there, so that there is something to count.
_MORE_OF_THE_SAME = 1.6
_Spot = tuple[str, float, float, float]  # size, x, y, radius
#: From and to, in pixels. Small things are some 22 pixels wide: at 19 most of the four patches of 16 that they lie in
#: showed but a corner of them: a tower told their kinds at 78 % where it told large ones at 95 (docs/decisions.md).
RADIUS = {"small": (10.5, 12.0), "large": (15.0, 16.5)}
_JITTER = 3.0
#: Centres are at least this share of the two radii apart: what is covered stays less than what is seen.
_APART = 0.8
#: Half of what the longest writing takes of the image, with a little room, in pixels.
_WRITING = (12.0, 8.0)


def scene(seed: int, split: str, index: int, *, things: int | None = None) -> Scene:
    """The scene `index` of a split: the same for the same arguments, on any machine.

    Args:
        seed: the world's seed.
        split: any name; `novel` alone shows the held-out combinations.
        index: from 0, without end.
        things: how many it shows, 2 to 5 by default.
    """
    draw = Random(f"{seed}/{split}/{index}")
    return _draw_scene(draw, f"{split}-{index}", things, novel=split == NOVEL)


def scenes(seed: int, split: str, count: int, first: int = 0) -> Iterator[Scene]:
    """`count` scenes of a split from `first` on, one at a time."""
    if count < 0:
        raise RequestError(f"count: {count}; it cannot be negative.")
    return (scene(seed, split, index) for index in range(first, first + count))


def could_be_in(kind: str, setting: str) -> bool:
    """Whether a kind is ever seen in a setting: by itself, or with what may bring it along there."""
    usual = FREQUENCY[setting]
    return kind in usual or any(kind in AFFINITY.get(other, {}) for other in usual)


def _draw_scene(draw: Random, scene_id: str, count: int | None, *, novel: bool) -> Scene:
    setting = draw.choice(SETTINGS)
    kinds = _draw_kinds(draw, setting, count or _weighted(draw, _COUNTS))
    while novel and not any(kind in _HELD_OUT_COLOURS for kind in kinds):
        kinds = _draw_kinds(draw, setting, len(kinds))
    new = next(i for i, kind in enumerate(kinds) if kind in _HELD_OUT_COLOURS) if novel else None
    spots = _draw_spots(draw, kinds)
    things = [_draw_thing(draw, kind, *spots[i], new=i == new) for i, kind in enumerate(kinds)]
    # What stands lower in the image is nearer.
    ordered = tuple(sorted(things, key=lambda thing: thing.y))
    light = (draw.uniform(0, 2 * math.pi), draw.uniform(0.0, 1.0))
    time = "night" if draw.random() < 0.35 else "day"
    return Scene(scene_id, setting, time, light, draw.randrange(1 << 16), ordered)


def _draw_kinds(draw: Random, setting: str, count: int) -> list[str]:
    weights = dict(FREQUENCY[setting])
    kinds: list[str] = []
    for _ in range(count):
        kind = _weighted(draw, weights)
        if kind not in kinds:
            for other, factor in AFFINITY.get(kind, {}).items():
                # What never occurs in a setting may still follow its companion there.
                weights[other] = weights.get(other, 0.3) * factor
            weights[kind] *= _MORE_OF_THE_SAME
        kinds.append(kind)
        if kind == "sign":
            weights["sign"] = 0.0  # one sign a scene: what it says has one answer
    return kinds


def _draw_spots(draw: Random, kinds: list[str]) -> list[_Spot]:
    """A size and a spot for each, in different ninths of the image and never hiding one another."""
    while True:
        cells = draw.sample(range(9), len(kinds))
        spots = [_draw_spot(draw, cell, kind) for cell, kind in zip(cells, kinds, strict=True)]
        if not all(_clear(a, b) for i, a in enumerate(spots) for b in spots[:i]):
            continue
        signs = [i for i, kind in enumerate(kinds) if kind == "sign"]
        if all(_readable(spots[i], other) for i in signs for j, other in enumerate(spots) if j != i):
            return spots


def _draw_spot(draw: Random, cell: int, kind: str) -> _Spot:
    # A small sign could not be read.
    size = "large" if draw.random() < 0.55 or kind == "sign" else "small"
    radius = draw.uniform(*RADIUS[size])
    third = SIDE / 3
    x = third * (cell % 3 + 0.5) + draw.uniform(-_JITTER, _JITTER)
    y = third * (cell // 3 + 0.5) + draw.uniform(-_JITTER, _JITTER)
    if kind == "sign":
        x = min(max(x, radius), SIDE - radius)  # all that is written lies in the image
    return size, round(x, 2), round(y, 2), round(radius, 2)


def _clear(first: _Spot, second: _Spot) -> bool:
    return math.dist(first[1:3], second[1:3]) >= _APART * (first[3] + second[3])


def _readable(sign: _Spot, other: _Spot) -> bool:
    """Whether the other is behind the sign, or beside what is written on it."""
    across, down = other[1] - sign[1], other[2] - sign[2]
    return down <= 0 or abs(across) >= _WRITING[0] + other[3] or down >= _WRITING[1] + other[3]


def _draw_thing(draw: Random, kind: str, size: str, x: float, y: float, radius: float, *, new: bool) -> Thing:
    facts = KINDS[kind]
    colour = _draw_colour(draw, kind, new=new)
    pattern = draw.choice(PATTERNS) if facts.patterned else "plain"
    state = draw.choice(facts.states) if facts.states else ""
    writing = _draw_writing(draw) if kind == "sign" else ""
    return Thing(kind, colour, size, pattern, state, writing, x, y, radius)


def _draw_colour(draw: Random, kind: str, *, new: bool) -> Colour:
    held_out = _HELD_OUT_COLOURS.get(kind)
    if new and held_out:
        return held_out
    usual = USUAL_COLOUR.get(kind, {})
    return _weighted(draw, {colour: usual.get(colour, 1.0) for colour in COLOURS if colour != held_out})


def _draw_writing(draw: Random) -> str:
    style = draw.random()
    if style < 0.3:
        return draw.choice(DIGITS)
    if style < 0.6:
        return draw.choice(LETTERS.replace("A", ""))  # VQA's normaliser takes a lone one for an article
    return draw.choice(LETTERS) + draw.choice(DIGITS)


def _weighted(draw: Random, weights: Mapping[T, float]) -> T:
    return draw.choices(list(weights), list(weights.values()))[0]
