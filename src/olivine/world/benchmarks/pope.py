"""World-POPE in POPE's own files, by POPE's own rule: three kinds that are there and three that are not, an image.

Those that are not: any (random), the most frequent of the split (popular), those most often seen with what is there
(adversarial). The rule is that of `AoiDragon/POPE:main.py`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from olivine.files import write_json_lines
from olivine.world.image_files import save_with_truth
from olivine.world.language import article
from olivine.world.sampling import scene
from olivine.world.scene import KINDS, Scene

SPLIT = "pope-val"
_EACH = 3
SETTINGS = ("random", "popular", "adversarial")


def write(folder: Path, seed: int, images: int) -> int:
    """Write the three label files and the images; how many questions there are in all."""
    shown = _scenes(seed, images)
    draw = Random(f"{seed}/{SPLIT}/questions")
    # Statistics of the split, as POPE takes those of its own: not what the sampler says.
    frequency = Counter(kind for one in shown for kind in one.kinds)
    together = Counter((a, b) for one in shown for a in one.kinds for b in one.kinds if a != b)
    rows: dict[str, list[dict[str, object]]] = {setting: [] for setting in SETTINGS}
    scenes = {}
    for index, one in enumerate(shown):
        name = f"COCO_val2014_{211 + 13 * index:012d}.jpg"
        scenes[f"images/{name}"] = one
        present = draw.sample(one.kinds, _EACH)
        absent = [kind for kind in KINDS if kind not in one.kinds]
        draw.shuffle(absent)
        negatives = {
            "random": absent[:_EACH],
            "popular": sorted(absent, key=lambda kind: -frequency[kind])[:_EACH],
            "adversarial": _most_often_seen_with(present, absent, together),
        }
        for setting in SETTINGS:
            for pair in zip(present, negatives[setting], strict=True):
                for kind, label in zip(pair, ("yes", "no"), strict=True):
                    text = f"Is there {article(kind)} in the image?"
                    number = len(rows[setting]) + 1
                    rows[setting].append({"question_id": number, "image": name, "text": text, "label": label})
    for setting in SETTINGS:
        write_json_lines(folder / f"coco_pope_{setting}.json", rows[setting])
    save_with_truth(folder, scenes)
    return sum(map(len, rows.values()))


def _scenes(seed: int, images: int) -> list[Scene]:
    """The split's first scenes with three kinds or more (POPE, too, passes over images of few objects)."""
    found: list[Scene] = []
    index = 0
    while len(found) < images:
        one = scene(seed, SPLIT, index)
        index += 1
        if len(one.kinds) >= _EACH:
            found.append(one)
    return found


def _most_often_seen_with(
    present: Sequence[str], absent: Sequence[str], together: Counter[tuple[str, str]]
) -> list[str]:
    """For each kind that is there, the absent one most often seen with it that is not yet taken."""
    chosen: list[str] = []
    for kind in present:
        left = [other for other in absent if other not in chosen]
        chosen.append(max(left, key=lambda other, kind=kind: together[kind, other]))  # type: ignore[misc]
    return chosen
