"""World-MME in the folders of MME's release: two yes/no questions per image, one of each answer, by sub-task.

Only the sub-tasks that the world can render: it has no posters, celebrities, landmarks, art, code or foreign language.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

from olivine.files import write_text
from olivine.world.image_files import save_with_truth
from olivine.world.language import article, number, reference
from olivine.world.question import YES_NO, Question
from olivine.world.questions import TOPICS, misread
from olivine.world.sampling import sample_scene
from olivine.world.scene import BACKDROPS, CLASSES, COLOURS, OPPOSITE, Scene, relations

_INSTRUCTION = "Please answer yes or no."
#: A question of each answer, without the instruction; None if a scene has no such pair.
_Pair = tuple[str, str] | None


def write(folder: Path, seed: int, images: int) -> int:
    """Write every sub-task's folder with `images` images each; return the total number of questions."""
    scenes: dict[str, Scene] = {}
    for task, ask in TASKS.items():
        split = f"mme-{task}"
        rng = Random(f"{seed}/{split}/questions")
        index = found = 0
        while found < images:
            scene = sample_scene(seed, split, index)
            index += 1
            pair = ask(scene, rng)
            if pair is None:
                continue
            found += 1
            lines = [f"{text} {_INSTRUCTION}\t{gold}" for text, gold in zip(pair, ("Yes", "No"), strict=True)]
            # Either may come first, as in the release.
            write_text(folder / task / f"{found:06d}.txt", "\n".join(rng.sample(lines, 2)) + "\n")
            scenes[f"{task}/{found:06d}.jpg"] = scene
    save_with_truth(folder, scenes)
    return 2 * len(scenes)


def _existence(scene: Scene, rng: Random) -> _Pair:
    absent = [class_name for class_name in CLASSES if class_name not in scene.classes]
    classes = rng.choice(scene.classes), rng.choice(absent)
    yes, no = (f"Is there {article(class_name)} in this image?" for class_name in classes)
    return yes, no


def _count(scene: Scene, rng: Random) -> _Pair:
    several = [class_name for class_name in scene.classes if len(scene.of_class(class_name)) > 1]
    if not several:
        return None
    class_name = rng.choice(several)
    count = len(scene.of_class(class_name))
    yes, no = (f"Are there {number(some)} {CLASSES[class_name].plural} in this image?" for some in (count, count + 1))
    return yes, no


def _position(scene: Scene, rng: Random) -> _Pair:
    found = list(relations(scene))
    rng.shuffle(found)
    for first, relation, second in found:
        one, other = (reference(scene, obj, rng, without=("place",)) for obj in (first, second))
        if one is not None and other is not None:
            return f"Is {one} {relation} {other}?", f"Is {one} {OPPOSITE[relation]} {other}?"
    return None


def _colour(scene: Scene, rng: Random) -> _Pair:
    obj = rng.choice(scene.objects)
    of_class = {other.colour for other in scene.of_class(obj.class_name)}
    # A colour that another object has is the harder negative.
    others = sorted({other.colour for other in scene.objects} - of_class) or [c for c in COLOURS if c not in of_class]
    colours = obj.colour, rng.choice(others)
    yes, no = (f"Is there {article(colour)} {obj.class_name} in this image?" for colour in colours)
    return yes, no


def _scene(scene: Scene, rng: Random) -> _Pair:
    other = rng.choice([backdrop for backdrop in BACKDROPS if backdrop != scene.backdrop])
    yes, no = (f"Is this picture captured in a place of {backdrop}?" for backdrop in (scene.backdrop, other))
    return yes, no


def _ocr(scene: Scene, rng: Random) -> _Pair:
    signs = scene.of_class("sign")
    if not signs:
        return None
    text = signs[0].writing
    return f"Does the sign say {text}?", f"Does the sign say {misread(text, rng)}?"


def _of_topic(topic: str) -> Callable[[Scene, Random], _Pair]:
    """Return a function that pairs a topic's own yes/no questions."""

    def ask(scene: Scene, rng: Random) -> _Pair:
        found: dict[str, Question] = {}
        for _ in range(60):
            question = TOPICS[topic](scene, rng)
            if question is not None and question.valid == YES_NO:
                found.setdefault(question.answer, question)
            if len(found) == 2:
                return found["yes"].text, found["no"].text
        return None

    return ask


TASKS: dict[str, Callable[[Scene, Random], _Pair]] = {
    "existence": _existence,
    "count": _count,
    "position": _position,
    "color": _colour,
    "scene": _scene,
    "OCR": _ocr,
    "commonsense_reasoning": _of_topic("use"),
    "numerical_calculation": _of_topic("total"),
}
