"""World-MME in the folders of MME's release: two yes/no questions an image, one of each answer, by sub-task.

Only the sub-tasks that the world can show: it has no posters, celebrities, landmarks, art, code or foreign language.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

from olivine.files import write_text
from olivine.world.asked import YES_NO, Asked
from olivine.world.image_files import save_with_truth
from olivine.world.language import article, number, reference
from olivine.world.questions import TOPICS, misread
from olivine.world.sampling import scene
from olivine.world.scene import COLOURS, KINDS, OPPOSITE, SETTINGS, Scene, relations

_INSTRUCTION = "Please answer yes or no."
#: A question of each answer, without the instruction; None where a scene has no such pair.
_Pair = tuple[str, str] | None


def write(folder: Path, seed: int, images: int) -> int:
    """Write every sub-task's folder with `images` images each; how many questions there are in all."""
    scenes: dict[str, Scene] = {}
    for task, ask in TASKS.items():
        split = f"mme-{task}"
        draw = Random(f"{seed}/{split}/questions")
        index = found = 0
        while found < images:
            shown = scene(seed, split, index)
            index += 1
            pair = ask(shown, draw)
            if pair is None:
                continue
            found += 1
            lines = [f"{text} {_INSTRUCTION}\t{gold}" for text, gold in zip(pair, ("Yes", "No"), strict=True)]
            # Either may come first, as in the release.
            write_text(folder / task / f"{found:06d}.txt", "\n".join(draw.sample(lines, 2)) + "\n")
            scenes[f"{task}/{found:06d}.jpg"] = shown
    save_with_truth(folder, scenes)
    return 2 * len(scenes)


def _existence(shown: Scene, draw: Random) -> _Pair:
    absent = [kind for kind in KINDS if kind not in shown.kinds]
    kinds = draw.choice(shown.kinds), draw.choice(absent)
    yes, no = (f"Is there {article(kind)} in this image?" for kind in kinds)
    return yes, no


def _count(shown: Scene, draw: Random) -> _Pair:
    several = [kind for kind in shown.kinds if len(shown.of_kind(kind)) > 1]
    if not several:
        return None
    kind = draw.choice(several)
    count = len(shown.of_kind(kind))
    yes, no = (f"Are there {number(some)} {KINDS[kind].plural} in this image?" for some in (count, count + 1))
    return yes, no


def _position(shown: Scene, draw: Random) -> _Pair:
    found = list(relations(shown))
    draw.shuffle(found)
    for first, relation, second in found:
        one, other = (reference(shown, thing, draw, without=("place",)) for thing in (first, second))
        if one is not None and other is not None:
            return f"Is {one} {relation} {other}?", f"Is {one} {OPPOSITE[relation]} {other}?"
    return None


def _colour(shown: Scene, draw: Random) -> _Pair:
    thing = draw.choice(shown.things)
    of_kind = {other.colour for other in shown.of_kind(thing.kind)}
    # A colour that something else has is the harder denial.
    others = sorted({other.colour for other in shown.things} - of_kind) or [c for c in COLOURS if c not in of_kind]
    colours = thing.colour, draw.choice(others)
    yes, no = (f"Is there {article(colour)} {thing.kind} in this image?" for colour in colours)
    return yes, no


def _scene(shown: Scene, draw: Random) -> _Pair:
    other = draw.choice([setting for setting in SETTINGS if setting != shown.setting])
    yes, no = (f"Is this picture captured in a place of {setting}?" for setting in (shown.setting, other))
    return yes, no


def _ocr(shown: Scene, draw: Random) -> _Pair:
    signs = shown.of_kind("sign")
    if not signs:
        return None
    text = signs[0].writing
    return f"Does the sign say {text}?", f"Does the sign say {misread(text, draw)}?"


def _of_topic(topic: str) -> Callable[[Scene, Random], _Pair]:
    """A pair out of a topic's own yes/no questions."""

    def ask(shown: Scene, draw: Random) -> _Pair:
        found: dict[str, Asked] = {}
        for _ in range(60):
            asked = TOPICS[topic](shown, draw)
            if asked is not None and asked.valid == YES_NO:
                found.setdefault(asked.answer, asked)
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
