"""The world's training sets in LLaVA's JSON: captions for the connector, instructions for the whole model.

Benchmarks, which share no scene with any training set, are written in `benchmarks`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import atomic_folder, read_json, write_json
from olivine.world.conversations import described_in_words, instructions
from olivine.world.drawing import image
from olivine.world.language import caption
from olivine.world.sampling import VERSION, sample_scene
from olivine.world.scene import Scene

CAPTIONS, INSTRUCTIONS, IMAGES = "captions.json", "instructions.json", "images"
#: The request, beside the data.
RECORD = "request.json"
#: One text-only conversation for this many images (LLaVA-1.5's mix has 40,688 of 665,298).
_IMAGES_PER_TEXT = 16
_QUESTIONS = 10
_CHUNK = 250
_DESCRIBE = ("Describe the picture.", "Write a caption for this picture.", "Describe this image in one sentence.")


def write(
    folder: Path,
    seed: int,
    images: int = 4000,
    on_image: Callable[[int, int], None] | None = None,
    *,
    workers: int = 1,
) -> None:
    """Write `captions.json`, `instructions.json` and their images: `images` of each.

    The same seed gives the same bytes for any number of workers. The folder is written atomically; an existing one
    of the same request is kept.

    Args:
        folder: the target, which is created.
        seed: the world's seed.
        images: of each of the two sets; `captions.json` has one conversation of one turn for each of its own,
            `instructions.json` one of ten questions, and a conversation without an image for every sixteen.
        on_image: called with (done, total).
        workers: number of processes.
    """
    request = {"world": VERSION, "seed": seed, "pictures": images}
    if (folder / RECORD).is_file() and read_json(folder / RECORD) == request:
        return
    with atomic_folder(folder) as partial_folder:
        _write_all(partial_folder, seed, images, on_image or (lambda _done, _total: None), workers)
        write_json(partial_folder / RECORD, request)


def _write_all(folder: Path, seed: int, images: int, on_image: Callable[[int, int], None], workers: int) -> None:
    done = 0
    # Threads may be running (a progress bar): a fork could copy one of their locks.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for split, name in (("align", CAPTIONS), ("instruct", INSTRUCTIONS)):
            (folder / IMAGES / split).mkdir(parents=True, exist_ok=True)
            starts = range(0, images, _CHUNK)
            some = partial(_write_some, folder, seed, split, images)
            items: list[dict[str, Any]] = []
            for written in pool.map(some, starts) if workers > 1 else map(some, starts):
                items += written
                done += sum("image" in item for item in written)
                on_image(done, 2 * images)
            write_json(folder / name, items)


def _write_some(folder: Path, seed: int, split: str, images: int, first: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for index in range(first, min(first + _CHUNK, images)):
        scene = sample_scene(seed, split, index)
        name = f"{split}/{index:06d}.jpg"
        # Full chroma: half of the questions are about colour.
        image(scene).save(folder / IMAGES / name, quality=95, subsampling=0)
        rng = Random(f"{seed}/{split}/{index}/words")
        items += list(_caption(scene, name, rng) if split == "align" else _instruction(scene, name, rng, seed, index))
    return items


def _caption(scene: Scene, name: str, rng: Random) -> Iterator[dict[str, Any]]:
    yield _item(scene.id, name, [(rng.choice(_DESCRIBE), caption(scene, rng, keep=1.0))])


def _instruction(scene: Scene, name: str, rng: Random, seed: int, index: int) -> Iterator[dict[str, Any]]:
    yield _item(scene.id, name, instructions(scene, rng, _QUESTIONS))
    if index % _IMAGES_PER_TEXT == 0:
        text = described_in_words(sample_scene(seed, "instruct-text", index), rng, 4)
        pairs = [(f"{text.description}\n{question}", reply) for question, reply in text.pairs]
        yield _item(f"{scene.id}-text", None, pairs)


def _item(name: str, image: str | None, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    turns = []
    for number, (question, reply) in enumerate(pairs):
        mark = "<image>\n" if image is not None and number == 0 else ""
        turns += [{"from": "human", "value": mark + question}, {"from": "gpt", "value": reply}]
    return {"id": name, **({"image": image} if image is not None else {}), "conversations": turns}
