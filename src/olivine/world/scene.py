"""What a scene is: its things, their looks and places, and the facts that follow from them.

How likely a scene is lies in `sampling`, how it is drawn in `drawing`, how it is spoken of in `language`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

#: Side of every image, in pixels.
SIDE = 96

Colour = Literal["red", "yellow", "green", "blue", "purple", "pink", "white", "black"]
COLOURS: tuple[Colour, ...] = ("red", "yellow", "green", "blue", "purple", "pink", "white", "black")
SIZES = ("small", "large")
PATTERNS = ("plain", "striped", "spotted")
SETTINGS = ("park", "street", "kitchen", "beach")
TIMES = ("day", "night")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing: its name, plural, category, the states it can be in, and whether it can bear a pattern.

    `states` are the two values of the one property in `property`, empty if it has none.
    """

    name: str
    plural: str
    category: str
    property: str = ""
    states: tuple[str, ...] = ()
    patterned: bool = False


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("ball", "balls", "toy", patterned=True),
        Kind("kite", "kites", "toy", patterned=True),
        Kind("box", "boxes", "container", "lid", ("open", "closed"), patterned=True),
        Kind("cup", "cups", "container", "filling", ("full", "empty"), patterned=True),
        Kind("fish", "fish", "animal", "facing", ("left", "right"), patterned=True),
        Kind("bird", "birds", "animal", "facing", ("left", "right")),
        Kind("tree", "trees", "plant"),
        Kind("flower", "flowers", "plant"),
        Kind("house", "houses", "building", "door", ("open", "closed")),
        Kind("car", "cars", "vehicle", "facing", ("left", "right")),
        Kind("lamp", "lamps", "light", "light", ("on", "off")),
        Kind("sign", "signs", "board"),
    )
}
CATEGORIES = tuple(dict.fromkeys(kind.category for kind in KINDS.values()))

#: The nine places of an image, row by row; what the language calls them.
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
#: Two things are beside or above one another only if their centres are at least this far apart, in pixels.
CLEARLY = 14.0


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a scene.

    Attributes:
        kind: a name in `KINDS`.
        colour: its main colour.
        size: small or large.
        pattern: plain, striped or spotted.
        state: one of its kind's states, empty if the kind has none.
        writing: what a sign says, else empty.
        x, y: its centre, in pixels from the top left.
        radius: half its extent, in pixels.
    """

    kind: str
    colour: Colour
    size: str
    pattern: str
    state: str
    writing: str
    x: float
    y: float
    radius: float

    @property
    def place(self) -> str:
        """Which of the nine `PLACES` its centre lies in."""
        third = SIDE / 3
        return PLACES[3 * min(2, int(self.y / third)) + min(2, int(self.x / third))]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, width, height), in pixels, cut at the image's edge."""
        left, top = max(0.0, self.x - self.radius), max(0.0, self.y - self.radius)
        right, bottom = min(float(SIDE), self.x + self.radius), min(float(SIDE), self.y + self.radius)
        return left, top, right - left, bottom - top


@dataclass(frozen=True)
class Scene:
    """An image's full ground truth.

    Attributes:
        id: split and index, such as `train-17`; with the world's seed it decides everything.
        setting: where it plays.
        time: day or night.
        light: where the light comes from, in radians, and how strong it varies over the image (0 to 1).
        grain: which patch of noise lies over it.
        things: from the farthest to the nearest: later ones cover earlier ones.
    """

    id: str
    setting: str
    time: str
    light: tuple[float, float]
    grain: int
    things: tuple[Thing, ...]

    def of_kind(self, kind: str) -> list[Thing]:
        """All things of a kind."""
        return [thing for thing in self.things if thing.kind == kind]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are there, each once, in the order of `KINDS`."""
        there = {thing.kind for thing in self.things}
        return tuple(kind for kind in KINDS if kind in there)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scene":
        """The scene that `to_dict` wrote."""
        things = tuple(Thing(**thing) for thing in values["things"])
        light = (float(values["light"][0]), float(values["light"][1]))
        return cls(values["id"], values["setting"], values["time"], light, values["grain"], things)


Relation = Literal["to the left of", "to the right of", "above", "below"]
RELATIONS: tuple[Relation, ...] = ("to the left of", "to the right of", "above", "below")
OPPOSITE: dict[Relation, Relation] = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}


def column(thing: Thing) -> int:
    """0, 1 or 2: the third of the image's width that its centre lies in."""
    return PLACES.index(thing.place) % 3


def row(thing: Thing) -> int:
    """0, 1 or 2: the third of the image's height that its centre lies in."""
    return PLACES.index(thing.place) // 3


def named_apart(place: str, other: str) -> bool:
    """Whether a place's name leaves no doubt that the other is not meant: something top left is also on the left."""
    return place not in other.split() and place != other


def holds(first: Thing, relation: Relation, second: Thing) -> bool:
    """Whether `first` clearly is there from `second`: in another third of the image and `CLEARLY` apart.

    Both the drawn distance and the named places must agree, so that a question has one answer whether the scene is
    seen or described in words.
    """
    if relation in ("above", "below"):
        apart, thirds = second.y - first.y, row(second) - row(first)
    else:
        apart, thirds = second.x - first.x, column(second) - column(first)
    if relation in ("to the right of", "below"):
        apart, thirds = -apart, -thirds
    return apart >= CLEARLY and thirds >= 1


def relations(scene: Scene) -> Iterator[tuple[Thing, Relation, Thing]]:
    """Every relation that holds between two of its things."""
    for first in scene.things:
        for second in scene.things:
            if first is not second:
                for relation in RELATIONS:
                    if holds(first, relation, second):
                        yield first, relation, second
