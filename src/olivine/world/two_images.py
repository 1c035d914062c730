"""Questions about two images: which of them shows something, the first or the second. Training data and a benchmark.

Each pair of the benchmark is asked in both orders, so that the answer cannot be guessed without images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import atomic_folder, read_json, write_json, write_json_lines
from olivine.wording import SHORT_ANSWER
from olivine.world.image_files import save_all, save_with_truth
from olivine.world.language import article
from olivine.world.sampling import VERSION, sample_scene
from olivine.world.scene import Scene

TRAINING, BENCHMARK = "instructions.json", "exact-match"
#: The request, beside the data.
RECORD = "request.json"
ORDERS = ("first", "second")
_QUESTIONS = 4


@dataclass(frozen=True, slots=True)
class Difference:
    """A question whose answer is the one of two scenes that it is true of.

    Attributes:
        topic: what the scenes differ in: a name in `TOPICS`.
        text: the question, without any instruction on how to answer.
        holds_of: which scene it is true of: 0 or 1.
    """

    topic: str
    text: str
    holds_of: int


def write(folder: Path, seed: int, pairs: int = 2000, asked: int = 250) -> None:
    """Write `instructions.json` with its images, and the benchmark in `exact-match/`.

    The same seed gives the same bytes. The folder is written atomically; an existing one of the same request is kept.

    Args:
        folder: the target, which is created.
        seed: the world's seed.
        pairs: pairs of images to train on, with four questions each.
        asked: pairs of images in the benchmark, with two questions each, in both orders.
    """
    request = {"world": VERSION, "seed": seed, "pairs": pairs, "asked": asked}
    if (folder / RECORD).is_file() and read_json(folder / RECORD) == request:
        return
    with atomic_folder(folder) as partial_folder:
        _write_training(partial_folder, seed, pairs)
        _write_benchmark(partial_folder / BENCHMARK, seed, asked)
        write_json(partial_folder / RECORD, request)


def differences(scenes: tuple[Scene, Scene], rng: Random) -> Iterator[Difference]:
    """Yield one question on each topic in which the scenes differ, in random order."""
    for topic in rng.sample(list(TOPICS), len(TOPICS)):
        holds_of = rng.randrange(2)
        found = TOPICS[topic](scenes[holds_of], scenes[1 - holds_of], rng)
        if found is not None:
            yield Difference(topic, f"Which image {found}, the first or the second?", holds_of)


def _new_class(scene: Scene, other: Scene, rng: Random) -> str | None:
    """Draw a class that only `scene` has."""
    only = [name for name in scene.classes if name not in other.classes]
    return f"shows {article(rng.choice(only))}" if only else None


def _new_colour(scene: Scene, other: Scene, rng: Random) -> str | None:
    """Draw a class with a colour that only `scene` has; `other` has the class in another colour, if any class fits."""
    there = {(obj.colour, obj.class_name) for obj in other.objects}
    only = sorted({(obj.colour, obj.class_name) for obj in scene.objects} - there)
    tempting = [one for one in only if one[1] in other.classes] or only
    return f"shows {article(' '.join(rng.choice(tempting)))}" if tempting else None


def _setting(scene: Scene, other: Scene, _rng: Random) -> str | None:
    return f"shows {article(scene.backdrop)}" if scene.backdrop != other.backdrop else None


def _time(scene: Scene, other: Scene, _rng: Random) -> str | None:
    if scene.time == other.time:
        return None
    return "shows a scene by day" if scene.time == "day" else "shows a scene at night"


#: What `scene` shows and `other` does not, after "Which image"; None if there is no such thing.
TOPICS: dict[str, Callable[[Scene, Scene, Random], str | None]] = {
    "class": _new_class,
    "colour": _new_colour,
    "setting": _setting,
    "time": _time,
}


def _pair(seed: int, split: str, number: int) -> tuple[Scene, Scene]:
    """Return two scenes that no other pair contains."""
    return sample_scene(seed, split, 2 * number), sample_scene(seed, split, 2 * number + 1)


def _write_training(folder: Path, seed: int, pairs: int) -> None:
    scenes: dict[Path, Scene] = {}
    items: list[dict[str, Any]] = []
    for number in range(pairs):
        pair = _pair(seed, "two-images", number)
        rng = Random(f"{seed}/two-images/{number}/words")
        names = [f"{number:06d}-{which}.jpg" for which in ORDERS]
        scenes |= {folder / "images" / name: scene for name, scene in zip(names, pair, strict=True)}
        turns: list[dict[str, str]] = []
        for found in list(differences(pair, rng))[:_QUESTIONS]:
            mark = "" if turns else "<image>\n<image>\n"
            turns += [
                {"from": "human", "value": f"{mark}{found.text}{SHORT_ANSWER}"},
                {"from": "gpt", "value": ORDERS[found.holds_of]},
            ]
        if turns:
            items.append({"id": f"two-images-{number}", "images": names, "conversations": turns})
    save_all(scenes)
    write_json(folder / TRAINING, items)


def _write_benchmark(folder: Path, seed: int, pairs: int) -> None:
    """Write pairs with two questions each, in both orders: four questions per pair."""
    scenes: dict[str, Scene] = {}
    rows: list[dict[str, Any]] = []
    number = 0
    while len(scenes) < 2 * pairs:
        pair = _pair(seed, "two-images-test", number)
        asked = list(differences(pair, Random(f"{seed}/two-images-test/{number}/words")))[:2]
        number += 1
        if len(asked) < 2:
            continue
        names = [f"{len(scenes) // 2:05d}-{letter}.jpg" for letter in "ab"]
        scenes |= {f"images/{name}": scene for name, scene in zip(names, pair, strict=True)}
        for found in asked:
            for order in ((0, 1), (1, 0)):
                rows.append(
                    {
                        "question_id": len(rows) + 1,
                        "images": [names[which] for which in order],
                        "text": f"{found.text}{SHORT_ANSWER}",
                        "answer": ORDERS[order.index(found.holds_of)],
                        "category": found.topic,
                    }
                )
    folder.mkdir(parents=True)
    write_json_lines(folder / "questions.jsonl", rows)
    save_with_truth(folder, scenes)
