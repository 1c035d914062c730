"""World-POPE in POPE's own files, by POPE's own rule: three present and three absent classes per image.

The absent ones: any (random), the most frequent of the split (popular), those that co-occur most with what is present
(adversarial). The rule is that of `AoiDragon/POPE:main.py`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from olivine.files import write_json_lines
from olivine.world.image_files import save_with_truth
from olivine.world.language import article
from olivine.world.sampling import sample_scene
from olivine.world.scene import CLASSES, Scene

SPLIT = "pope-val"
_EACH = 3
SETTINGS = ("random", "popular", "adversarial")


def write(folder: Path, seed: int, images: int) -> int:
    """Write the three label files and the images; return the total number of questions."""
    selected = _scenes(seed, images)
    rng = Random(f"{seed}/{SPLIT}/questions")
    # Statistics of the split itself, as POPE does: not the sampler's weights.
    frequency = Counter(class_name for one in selected for class_name in one.classes)
    together = Counter((a, b) for one in selected for a in one.classes for b in one.classes if a != b)
    rows: dict[str, list[dict[str, object]]] = {setting: [] for setting in SETTINGS}
    scenes = {}
    for index, one in enumerate(selected):
        name = f"COCO_val2014_{211 + 13 * index:012d}.jpg"
        scenes[f"images/{name}"] = one
        present = rng.sample(one.classes, _EACH)
        absent = [class_name for class_name in CLASSES if class_name not in one.classes]
        rng.shuffle(absent)
        negatives = {
            "random": absent[:_EACH],
            "popular": sorted(absent, key=lambda class_name: -frequency[class_name])[:_EACH],
            "adversarial": _most_often_seen_with(present, absent, together),
        }
        for setting in SETTINGS:
            for pair in zip(present, negatives[setting], strict=True):
                for class_name, label in zip(pair, ("yes", "no"), strict=True):
                    text = f"Is there {article(class_name)} in the image?"
                    number = len(rows[setting]) + 1
                    rows[setting].append({"question_id": number, "image": name, "text": text, "label": label})
    for setting in SETTINGS:
        write_json_lines(folder / f"coco_pope_{setting}.json", rows[setting])
    save_with_truth(folder, scenes)
    return sum(map(len, rows.values()))


def _scenes(seed: int, images: int) -> list[Scene]:
    """Return the split's first scenes with three classes or more (POPE ignores images of few objects too)."""
    found: list[Scene] = []
    index = 0
    while len(found) < images:
        one = sample_scene(seed, SPLIT, index)
        index += 1
        if len(one.classes) >= _EACH:
            found.append(one)
    return found


def _most_often_seen_with(
    present: Sequence[str], absent: Sequence[str], together: Counter[tuple[str, str]]
) -> list[str]:
    """Return for each present class the absent one that co-occurs most with it and is not yet taken."""
    selected: list[str] = []
    for class_name in present:
        left = [other for other in absent if other not in selected]
        selected.append(max(left, key=lambda other, class_name=class_name: together[class_name, other]))  # type: ignore[misc]
    return selected
