"""Which of two images shows it? The recipe `world/two-images` trained, and measured with and without images.

    python benchmarks/two_images.py [--quick] [--work runs/two-images] [--out benchmarks/results/two-images-cpu.json]

Writes the world's captions and its questions about two images, trains the shipped recipe on one thread, and asks the
benchmark, in which every question is asked about a pair of images in both orders: without images half is right at most.
Everything is kept in `--work`; the same command resumes.
"""

import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from report import arguments, show
from sighted_and_blind import sighted_and_blind

import olivine
from olivine.files import read_json, read_json_lines
from olivine.world import training_data, two_images

IMAGES, PAIRS, ASKED = 4000, 2000, 250
QUICK = ("stages.align.steps=5", "stages.instruct.steps=5")


def stage_row(folder: Path) -> dict[str, Any]:
    steps = [line for line in read_json_lines(folder / "metrics.jsonl") if "seconds" in line]
    result = read_json(folder / "result.json")
    return {
        "stage": folder.name,
        "steps": result["steps"],
        "tokens": sum(line["tokens"] for line in steps),
        "seconds": result["seconds"],
        "seconds_a_step": round(statistics.median(line["seconds"] for line in steps), 3),
        "held_out_loss": round(result["held_out_loss"], 4),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/two-images"), help="where everything is kept")
    requested = parser.parse_args()
    work = requested.work
    training_data.write(work / "captions", 1, IMAGES // 50 if requested.quick else IMAGES)
    shares = (PAIRS // 50, ASKED // 50) if requested.quick else (PAIRS, ASKED)
    two_images.write(work / "pairs", 1, *shares)
    paths = {
        "captions.json": "captions/captions.json",
        "captions.images": "captions/images",
        "instructions.json": "pairs/instructions.json",
        "instructions.images": "pairs/images",
    }
    data = [f"data.{key}={work / path}" for key, path in paths.items()]
    checkpoint = olivine.train("world/two-images", *data, f"output={work / 'run'}", *(QUICK if requested.quick else ()))
    found = sighted_and_blind(checkpoint, "exact-match", work / "pairs" / "exact-match", work / "answers")
    by_topic = {
        key.removeprefix("accuracy/"): round(value, 2)
        for key, value in read_json(work / "answers" / "sighted" / "scores.json")["metrics"].items()
        if "/" in key
    }
    rows = [stage_row(work / "run" / stage) for stage in ("align", "instruct")]
    show(requested, {"accuracy, percent": found["sighted"]["mean"]}, rows, accuracy=found, by_topic=by_topic)


if __name__ == "__main__":
    main()
