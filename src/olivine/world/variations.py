"""Scenes that differ in one property of one object: what a model must look closely to tell apart.

Pairs for benchmarks and hard negatives for contrastive training both come from here.
"""

from dataclasses import replace
from random import Random

from olivine.world.sampling import DIGITS, HELD_OUT, LETTERS, RADIUS
from olivine.world.scene import CLASSES, COLOURS, PATTERNS, SIDE, Scene, SceneObject

#: The properties that can be changed alone.
PROPERTIES = ("colour", "pattern", "state", "writing", "size", "place", "kind", "absence")
_SMALL, _LARGE = (sum(RADIUS[size]) / 2 for size in ("small", "large"))


def varied(scene: Scene, rng: Random, name: str) -> tuple[Scene, int] | None:
    """The scene with one property of one of its objects changed, and which object; None if none has the property.

    A removed object keeps its place in the result's numbering only as the second value: it is gone from the scene.
    """
    order = rng.sample(range(len(scene.objects)), len(scene.objects))
    for index in order:
        changed = _changed(scene, index, rng, name)
        if changed is not None:
            return changed, index
    return None


def _changed(scene: Scene, index: int, rng: Random, name: str) -> Scene | None:
    if name == "absence":
        return _with(scene, index, None) if len(scene.objects) > 2 else None
    new = _CHANGES[name](scene, scene.objects[index], rng)
    return None if new is None else _with(scene, index, new)


def _with(scene: Scene, index: int, obj: SceneObject | None) -> Scene:
    objects = (*scene.objects[:index], *(() if obj is None else (obj,)), *scene.objects[index + 1 :])
    return replace(scene, objects=objects)


def _colour(_: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:
    options = [c for c in COLOURS if c != obj.colour and (obj.class_name, c) not in HELD_OUT]
    return replace(obj, colour=rng.choice(options))


def _pattern(_: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:
    if not CLASSES[obj.class_name].patterned:
        return None
    return replace(obj, pattern=rng.choice([p for p in PATTERNS if p != obj.pattern]))


def _state(_: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:  # noqa: ARG001
    if not obj.state:
        return None
    first, second = CLASSES[obj.class_name].states
    return replace(obj, state=second if obj.state == first else first)


def _writing(_: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:
    if not obj.writing:
        return None
    place = rng.randrange(len(obj.writing))
    characters = DIGITS if obj.writing[place] in DIGITS else LETTERS
    other = rng.choice([c for c in characters if c != obj.writing[place]])
    return replace(obj, writing=obj.writing[:place] + other + obj.writing[place + 1 :])


def _size(scene: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:  # noqa: ARG001
    if obj.class_name == "sign":
        return None  # a small one could not be read
    if obj.size == "large":
        return replace(obj, size="small", radius=_SMALL)
    grown = replace(obj, size="large", radius=_LARGE)
    return grown if _free(scene, obj, grown) else None


def _place(scene: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:
    taken = {other.place for other in scene.objects}
    third = SIDE / 3
    for cell in rng.sample(range(9), 9):
        moved = replace(obj, x=third * (cell % 3 + 0.5), y=third * (cell // 3 + 0.5))
        if moved.place not in taken and _free(scene, obj, moved):
            return moved
    return None


def _class(_: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:
    """Another class, with the same looks as far as it can have them."""
    if obj.class_name == "sign":
        return None
    options = [k for k in CLASSES if k not in (obj.class_name, "sign") and (k, obj.colour) not in HELD_OUT]
    new = CLASSES[rng.choice(options)]
    state = obj.state if obj.state in new.states else rng.choice(new.states) if new.states else ""
    pattern = obj.pattern if new.patterned else "plain"
    return replace(obj, class_name=new.name, state=state, pattern=pattern)


def _free(scene: Scene, obj: SceneObject, moved: SceneObject) -> bool:
    """Whether a changed object stays clear of the others, as sampled scenes do."""
    others = (other for other in scene.objects if other is not obj)
    return all(((moved.x - o.x) ** 2 + (moved.y - o.y) ** 2) ** 0.5 >= 0.8 * (moved.radius + o.radius) for o in others)


_CHANGES = {
    "colour": _colour,
    "pattern": _pattern,
    "state": _state,
    "writing": _writing,
    "size": _size,
    "place": _place,
    "kind": _class,
}
