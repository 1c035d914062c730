"""Scenes that differ in one property of one thing: what a model must look closely to tell apart.

Pairs for benchmarks and hard negatives for contrastive training both come from here.
"""

from dataclasses import replace
from random import Random

from olivine.world.sampling import DIGITS, HELD_OUT, LETTERS, RADIUS
from olivine.world.scene import COLOURS, KINDS, PATTERNS, SIDE, Scene, Thing

#: The properties that can be changed alone.
PROPERTIES = ("colour", "pattern", "state", "writing", "size", "place", "kind", "absence")
_SMALL, _LARGE = (sum(RADIUS[size]) / 2 for size in ("small", "large"))


def varied(scene: Scene, draw: Random, name: str) -> tuple[Scene, int] | None:
    """The scene with one property of one of its things changed, and which thing; None if none has the property.

    A removed thing keeps its place in the result's numbering only as the second value: it is gone from the scene.
    """
    order = draw.sample(range(len(scene.things)), len(scene.things))
    for index in order:
        changed = _changed(scene, index, draw, name)
        if changed is not None:
            return changed, index
    return None


def _changed(scene: Scene, index: int, draw: Random, name: str) -> Scene | None:
    if name == "absence":
        return _with(scene, index, None) if len(scene.things) > 2 else None
    new = _CHANGES[name](scene, scene.things[index], draw)
    return None if new is None else _with(scene, index, new)


def _with(scene: Scene, index: int, thing: Thing | None) -> Scene:
    things = (*scene.things[:index], *(() if thing is None else (thing,)), *scene.things[index + 1 :])
    return replace(scene, things=things)


def _colour(_: Scene, thing: Thing, draw: Random) -> Thing | None:
    options = [c for c in COLOURS if c != thing.colour and (thing.kind, c) not in HELD_OUT]
    return replace(thing, colour=draw.choice(options))


def _pattern(_: Scene, thing: Thing, draw: Random) -> Thing | None:
    if not KINDS[thing.kind].patterned:
        return None
    return replace(thing, pattern=draw.choice([p for p in PATTERNS if p != thing.pattern]))


def _state(_: Scene, thing: Thing, draw: Random) -> Thing | None:  # noqa: ARG001
    if not thing.state:
        return None
    first, second = KINDS[thing.kind].states
    return replace(thing, state=second if thing.state == first else first)


def _writing(_: Scene, thing: Thing, draw: Random) -> Thing | None:
    if not thing.writing:
        return None
    place = draw.randrange(len(thing.writing))
    characters = DIGITS if thing.writing[place] in DIGITS else LETTERS
    other = draw.choice([c for c in characters if c != thing.writing[place]])
    return replace(thing, writing=thing.writing[:place] + other + thing.writing[place + 1 :])


def _size(scene: Scene, thing: Thing, draw: Random) -> Thing | None:  # noqa: ARG001
    if thing.kind == "sign":
        return None  # a small one could not be read
    if thing.size == "large":
        return replace(thing, size="small", radius=_SMALL)
    grown = replace(thing, size="large", radius=_LARGE)
    return grown if _free(scene, thing, grown) else None


def _place(scene: Scene, thing: Thing, draw: Random) -> Thing | None:
    taken = {other.place for other in scene.things}
    third = SIDE / 3
    for cell in draw.sample(range(9), 9):
        moved = replace(thing, x=third * (cell % 3 + 0.5), y=third * (cell // 3 + 0.5))
        if moved.place not in taken and _free(scene, thing, moved):
            return moved
    return None


def _kind(_: Scene, thing: Thing, draw: Random) -> Thing | None:
    """Another kind, with the same looks as far as it can have them."""
    if thing.kind == "sign":
        return None
    options = [k for k in KINDS if k not in (thing.kind, "sign") and (k, thing.colour) not in HELD_OUT]
    kind = KINDS[draw.choice(options)]
    state = thing.state if thing.state in kind.states else draw.choice(kind.states) if kind.states else ""
    return replace(thing, kind=kind.name, state=state, pattern=thing.pattern if kind.patterned else "plain")


def _free(scene: Scene, thing: Thing, moved: Thing) -> bool:
    """Whether a changed thing stays clear of the others, as sampled scenes do."""
    others = (other for other in scene.things if other is not thing)
    return all(((moved.x - o.x) ** 2 + (moved.y - o.y) ** 2) ** 0.5 >= 0.8 * (moved.radius + o.radius) for o in others)


_CHANGES = {
    "colour": _colour,
    "pattern": _pattern,
    "state": _state,
    "writing": _writing,
    "size": _size,
    "place": _place,
    "kind": _kind,
}
