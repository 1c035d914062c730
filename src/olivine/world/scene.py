"""What a scene is: its objects, their appearance and places, and the facts that follow from them.

Sampling is in `sampling`, rendering in `drawing`, wording in `language`.
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
BACKDROPS = ("park", "street", "kitchen", "beach")
TIMES = ("day", "night")


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """A class of objects: its name, plural, category, the states it can be in, and whether it can bear a pattern.

    `states` are the two values of the one property in `property`, empty if it has none.
    """

    name: str
    plural: str
    category: str
    property: str = ""
    states: tuple[str, ...] = ()
    patterned: bool = False


CLASSES: dict[str, ObjectClass] = {
    one.name: one
    for one in (
        ObjectClass("ball", "balls", "toy", patterned=True),
        ObjectClass("kite", "kites", "toy", patterned=True),
        ObjectClass("box", "boxes", "container", "lid", ("open", "closed"), patterned=True),
        ObjectClass("cup", "cups", "container", "filling", ("full", "empty"), patterned=True),
        ObjectClass("fish", "fish", "animal", "facing", ("left", "right"), patterned=True),
        ObjectClass("bird", "birds", "animal", "facing", ("left", "right")),
        ObjectClass("tree", "trees", "plant"),
        ObjectClass("flower", "flowers", "plant"),
        ObjectClass("house", "houses", "building", "door", ("open", "closed")),
        ObjectClass("car", "cars", "vehicle", "facing", ("left", "right")),
        ObjectClass("lamp", "lamps", "light", "light", ("on", "off")),
        ObjectClass("sign", "signs", "board"),
    )
}
CATEGORIES = tuple(dict.fromkeys(one.category for one in CLASSES.values()))

#: The nine places of an image, row by row; what the language calls them.
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
#: The keys that files have for a field, where they differ.
_KEYS = {"class_name": "kind", "backdrop": "setting", "objects": "things"}
#: Two objects are beside or above one another only if their centres are at least this far apart, in pixels.
CLEARLY = 14.0


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object in a scene.

    Attributes:
        class_name: a name in `CLASSES`.
        colour: its main colour.
        size: small or large.
        pattern: plain, striped or spotted.
        state: one of its class's states, empty if the class has none.
        writing: what a sign says, else empty.
        x, y: its centre, in pixels from the top left.
        radius: half its extent, in pixels.
    """

    class_name: str
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
        id: split and index, such as `train-17`; with the world's seed it determines everything.
        backdrop: park, street, kitchen or beach.
        time: day or night.
        light: where the light comes from, in radians, and how strongly it varies over the image (0 to 1).
        grain: which patch of noise is added.
        objects: from the farthest to the nearest: later ones cover earlier ones.
    """

    id: str
    backdrop: str
    time: str
    light: tuple[float, float]
    grain: int
    objects: tuple[SceneObject, ...]

    def of_class(self, class_name: str) -> list[SceneObject]:
        """Return all objects of a class."""
        return [obj for obj in self.objects if obj.class_name == class_name]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes that are there, each once, in the order of `CLASSES`."""
        there = {obj.class_name for obj in self.objects}
        return tuple(class_name for class_name in CLASSES if class_name in there)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_dict` reads them."""
        values = asdict(self)
        objects = [{_KEYS.get(name, name): value for name, value in one.items()} for one in values.pop("objects")]
        return {_KEYS.get(name, name): value for name, value in values.items()} | {"things": objects}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scene":
        """Return the scene that `to_dict` wrote."""
        names = {key: name for name, key in _KEYS.items()}
        objects = tuple(
            SceneObject(**{names.get(key, key): value for key, value in one.items()}) for one in values["things"]
        )
        light = (float(values["light"][0]), float(values["light"][1]))
        return cls(values["id"], values["setting"], values["time"], light, values["grain"], objects)


Relation = Literal["to the left of", "to the right of", "above", "below"]
RELATIONS: tuple[Relation, ...] = ("to the left of", "to the right of", "above", "below")
OPPOSITE: dict[Relation, Relation] = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}


def column(obj: SceneObject) -> int:
    """Return 0, 1 or 2: the third of the image's width that its centre lies in."""
    return PLACES.index(obj.place) % 3


def row(obj: SceneObject) -> int:
    """Return 0, 1 or 2: the third of the image's height that its centre lies in."""
    return PLACES.index(obj.place) // 3


def named_apart(place: str, other: str) -> bool:
    """Return whether a place's name cannot also mean the other: something top left is also on the left."""
    return place not in other.split() and place != other


def holds(first: SceneObject, relation: Relation, second: SceneObject) -> bool:
    """Return whether `first` clearly has this relation to `second`: in another third, and `CLEARLY` apart.

    Both the drawn distance and the named places must agree, so that a question has one answer whether the scene is
    rendered or described in words.
    """
    if relation in ("above", "below"):
        apart, thirds = second.y - first.y, row(second) - row(first)
    else:
        apart, thirds = second.x - first.x, column(second) - column(first)
    if relation in ("to the right of", "below"):
        apart, thirds = -apart, -thirds
    return apart >= CLEARLY and thirds >= 1


def relations(scene: Scene) -> Iterator[tuple[SceneObject, Relation, SceneObject]]:
    """Yield every relation that holds between two of its objects."""
    for first in scene.objects:
        for second in scene.objects:
            if first is not second:
                for relation in RELATIONS:
                    if holds(first, relation, second):
                        yield first, relation, second
