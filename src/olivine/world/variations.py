"""Scenes that differ in one property of one object: what a model must look closely to distinguish.

Benchmarks take pairs from here, contrastive training hard negatives.
"""

from dataclasses import replace
from random import Random

from olivine.world.sampling import DIGITS, HELD_OUT, LETTERS, RADIUS
from olivine.world.scene import CLASSES, COLOURS, PATTERNS, SIDE, Scene, SceneObject

#: The properties that can be changed independently.
PROPERTIES = ("colour", "pattern", "state", "writing", "size", "place", "kind", "absence")
_SMALL, _LARGE = (sum(RADIUS[size]) / 2 for size in ("small", "large"))


def varied(scene: Scene, rng: Random, name: str) -> tuple[Scene, int] | None:
    """Change one property of one object; return the scene and the object's index, None if no object has the property.

    For `absence` the index is that of the removed object in the original scene.
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
    position = rng.randrange(len(obj.writing))
    characters = DIGITS if obj.writing[position] in DIGITS else LETTERS
    other = rng.choice([c for c in characters if c != obj.writing[position]])
    return replace(obj, writing=obj.writing[:position] + other + obj.writing[position + 1 :])


def _size(scene: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:  # noqa: ARG001
    if obj.class_name == "sign":
        return None  # a small one could not be read
    if obj.size == "large":
        return replace(obj, size="small", radius=_SMALL)
    enlarged = replace(obj, size="large", radius=_LARGE)
    return enlarged if _free(scene, obj, enlarged) else None


def _place(scene: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:
    taken = {other.place for other in scene.objects}
    third = SIDE / 3
    for ninth in rng.sample(range(9), 9):
        moved = replace(obj, x=third * (ninth % 3 + 0.5), y=third * (ninth // 3 + 0.5))
        if moved.place not in taken and _free(scene, obj, moved):
            return moved
    return None


def _class(_: Scene, obj: SceneObject, rng: Random) -> SceneObject | None:
    """Change the class, keeping the properties that the new class has too."""
    if obj.class_name == "sign":
        return None
    options = [k for k in CLASSES if k not in (obj.class_name, "sign") and (k, obj.colour) not in HELD_OUT]
    new = CLASSES[rng.choice(options)]
    state = obj.state if obj.state in new.states else rng.choice(new.states) if new.states else ""
    pattern = obj.pattern if new.patterned else "plain"
    return replace(obj, class_name=new.name, state=state, pattern=pattern)


def _free(scene: Scene, obj: SceneObject, moved: SceneObject) -> bool:
    """Return whether a changed object keeps its distance from the others, as in sampled scenes."""
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
