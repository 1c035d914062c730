"""How fast the world is drawn: scenes, images, JPEG files and questions a second, on one core.

    python benchmarks/world.py [--quick] [--json] [--out benchmarks/results/world-cpu.json]

Each is timed over the same scenes, round after round in turn; figures are medians over rounds, in seconds of processor
time, so that what else runs on the machine matters little. What is asked of it: 500 images a second a core.
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

ASKED_FOR = 500.0
QUESTIONS = 10


def sampled(shown: list[Scene]) -> None:
    list(sample_scenes(1, "speed", len(shown)))


def drawn(shown: list[Scene]) -> None:
    for one in shown:
        draw(one)


def streamed(shown: list[Scene]) -> None:
    """From the seed to the image: what training on the fly would do."""
    for one in sample_scenes(1, "speed", len(shown)):
        draw(one)


def saved(shown: list[Scene]) -> None:
    for one in shown:
        image(one).save(io.BytesIO(), "JPEG", quality=95, subsampling=0)


def told(shown: list[Scene]) -> None:
    for one in shown:
        words = Random(one.id)
        caption(one, words)
        description(one, words)


def asked(shown: list[Scene]) -> None:
    for one in shown:
        ask(one, Random(one.id), QUESTIONS)


WAYS: dict[str, Callable[[list[Scene]], None]] = {
    "scenes sampled": sampled,
    "images drawn": drawn,
    "images from the seed": streamed,
    "images as JPEG in memory": saved,
    "scenes captioned and described": told,
    f"scenes asked {QUESTIONS} questions": asked,
}


def measure(count: int, rounds: int) -> list[dict[str, Any]]:
    shown = list(sample_scenes(1, "speed", count))
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, way in WAYS.items():
            began = time.process_time()
            way(shown)
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
    ratios = {"images from the seed a second, of the 500 asked for": round(rate / ASKED_FOR, 2)}
    show(requested, ratios, rows, scenes=count, rounds=rounds)


if __name__ == "__main__":
    main()
