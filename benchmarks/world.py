"""How fast the world is drawn: scenes, images, JPEG files and questions per second, on one core.

    python benchmarks/world.py [--quick] [--json] [--out benchmarks/results/world-cpu.json]

All are timed over the same scenes, alternating round by round; figures are medians over rounds, in processor seconds,
so that other load on the machine matters little. The target is 500 images per second and core.
"""

import io
import os
import statistics
import time
from collections.abc import Callable
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from report import arguments, show

from olivine.world.drawing import draw, image
from olivine.world.language import caption, description
from olivine.world.questions import ask
from olivine.world.sampling import sample_scenes
from olivine.world.scene import Scene

TARGET = 500.0
QUESTIONS = 10


def sampled(scenes: list[Scene]) -> None:
    list(sample_scenes(1, "speed", len(scenes)))


def drawn(scenes: list[Scene]) -> None:
    for scene in scenes:
        draw(scene)


def streamed(scenes: list[Scene]) -> None:
    """From the seed to the image: what training on the fly would do."""
    for scene in sample_scenes(1, "speed", len(scenes)):
        draw(scene)


def saved(scenes: list[Scene]) -> None:
    for scene in scenes:
        image(scene).save(io.BytesIO(), "JPEG", quality=95, subsampling=0)


def described(scenes: list[Scene]) -> None:
    for scene in scenes:
        words = Random(scene.id)
        caption(scene, words)
        description(scene, words)


def questioned(scenes: list[Scene]) -> None:
    for scene in scenes:
        ask(scene, Random(scene.id), QUESTIONS)


WAYS: dict[str, Callable[[list[Scene]], None]] = {
    "scenes sampled": sampled,
    "images drawn": drawn,
    "images from the seed": streamed,
    "images as JPEG in memory": saved,
    "scenes captioned and described": described,
    f"scenes asked {QUESTIONS} questions": questioned,
}


def measure(count: int, rounds: int) -> list[dict[str, Any]]:
    scenes = list(sample_scenes(1, "speed", count))
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, way in WAYS.items():
            began = time.process_time()
            way(scenes)
            if number:  # the first round warms up
                rates[name].append(count / (time.process_time() - began))
    return [
        {"way": name, "a_second": round(statistics.median(rate), 1), "slowest_round": round(min(rate), 1)}
        for name, rate in rates.items()
    ]


def main() -> None:
    requested = arguments(__doc__).parse_args()
    count, rounds = (50, 1) if requested.quick else (1000, 5)
    rows = measure(count, rounds)
    rate = next(row["a_second"] for row in rows if row["way"] == "images from the seed")
    ratios = {"images from the seed a second, relative to the target of 500": round(rate / TARGET, 2)}
    show(requested, ratios, rows, scenes=count, rounds=rounds)


if __name__ == "__main__":
    main()
