"""A few samples of a user's: the obvious recipe, an aligned connector, and a whole model as a start.

    python benchmarks/own_data.py --base RUN --world DIR --work DIR [--quick] [--json] [--out FILE]

240 drawn images of one object each, sorted into three bins by a rule that no training set has, as a CSV: 60 held out by
image, 180 to train on; 600 further images measure the same more finely. Trained on the 180: one stage from the world's
modules with a fresh connector, the shipped `own-data` recipe, and `fine-tune` from a finished world run (whole,
low-rank, and whole at a tenth of the rate), whose other benchmarks are compared before and after, paired by question.

RUN: `olivine train world/clip-s-aligned output=RUN`; DIR: `olivine world write DIR`. What is finished is not repeated.
"""

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from report import arguments, show

import olivine
from olivine.data.csv_questions import QUESTIONS, TRAINING, convert
from olivine.files import read_json, read_json_lines
from olivine.recipe import RESULT
from olivine.records import Score
from olivine.statistics import cluster_intervals, generator, ratio_values
from olivine.world.drawing import image
from olivine.world.sampling import sample_scene
from olivine.world.scene import CLASSES

QUESTION = "Which bin does this go in?"
BINS = {"toy": "left", "container": "left", "animal": "right", "plant": "right"}
ELSE = "middle"
TRAINED, HELD_OUT, FURTHER = 180, 60, 600
OTHERS = ("gqa", "pope", "vqav2", "scienceqa")
#: That of the world's own instruct stage.
RATE = 8e-4


def draw(work: Path, split: str, count: int) -> Path:
    """Write a user's table with its images, and return it."""
    table = work / f"{split}.csv"
    if not table.exists():
        (work / "images").mkdir(parents=True, exist_ok=True)
        rows = [("image", "question", "answer")]
        for index in range(count):
            scene = sample_scene(77, split, index, objects=1)
            name = f"{split}-{index:04d}.png"
            image(scene).save(work / "images" / name)
            rows.append((name, QUESTION, BINS.get(CLASSES[scene.objects[0].class_name].category, ELSE)))
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return table


def prepare(requested: argparse.Namespace) -> None:
    work = requested.work
    if not (work / "data").exists():
        held_out = 10 if requested.quick else HELD_OUT
        count = 40 if requested.quick else TRAINED + HELD_OUT
        convert(draw(work, "own", count), work / "images", work / "data", held_out=held_out)
    if not (work / "further").exists():
        # All of them but one, which a training set must have.
        count = 40 if requested.quick else FURTHER
        convert(draw(work, "further", count + 1), work / "images", work / "further", held_out=count)


def arms(base: Path, quick: bool) -> dict[str, tuple[str, list[str]]]:
    """Return each arm's recipe and overrides; all take the same number of steps."""
    same = ["optimizer.precision=fp32", "optimizer.betas=[0.9,0.98]", "stages.tune.batch=6", "stages.tune.epochs=5"]
    same += ["stages.tune.steps=3"] if quick else []
    usual, tenth = (f"stages.tune.lr={rate}" for rate in (RATE, RATE / 10))
    return {
        "one stage, fresh connector": ("own-data", [*same, usual, "model.connector.from=null"]),
        "one stage, aligned connector": ("own-data", [*same, usual]),
        "fine-tuned": ("fine-tune", [*same, usual, f"model.from={base}"]),
        "fine-tuned, low rank": ("fine-tune", [*same, usual, f"model.from={base}", "stages.tune.lora.rank=16"]),
        "fine-tuned, a tenth of the rate": ("fine-tune", [*same, tenth, f"model.from={base}"]),
    }


def train(name: str, recipe: str, overrides: list[str], work: Path) -> Path:
    run = work / name.replace(", ", "-").replace(" ", "-")
    own = [f"data.own.json={work / 'data' / TRAINING}", f"data.own.images={work / 'images'}", f"output={run}"]
    olivine.train(recipe, *own, *overrides, quiet=True)
    return run


def measure(model: Path, benchmark: str, data: Path, folder: Path, images: Path | None = None) -> Score:
    return olivine.evaluate(model, benchmark, data, output=folder, images=images)


def per_image(scores: Sequence[Score]) -> np.ndarray[Any, Any]:
    """Return the share of right answers as values of independent images, `[images, models]`."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * (len(scores) + 1))
    for column, score in enumerate(scores):
        for item in score.items:
            sums[item.cluster][column] += item.correct
            sums[item.cluster][-1] += column == 0
    table = np.array(list(sums.values()))
    return 100 * ratio_values(table[:, :-1], np.repeat(table[:, -1:], len(scores), axis=1))


def with_interval(values: np.ndarray[Any, Any], seed: str) -> list[dict[str, float]]:
    low, high = cluster_intervals(values, generator(seed))
    ends = zip(values.mean(axis=0), low, high, strict=True)
    return [{"mean": round(float(m), 1), "low": round(float(a), 1), "high": round(float(b), 1)} for m, a, b in ends]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="a finished run of world/clip-s-aligned")
    parser.add_argument("--world", type=Path, required=True, help="what olivine world write wrote")
    parser.add_argument("--work", type=Path, required=True, help="a folder for tables, images and runs")
    requested = parser.parse_args()
    work = requested.work
    prepare(requested)
    others = OTHERS[:1] if requested.quick else OTHERS

    models = {"before (the world run itself)": requested.base}
    seconds: dict[str, float] = {}
    for name, (recipe, overrides) in arms(requested.base, requested.quick).items():
        models[name] = train(name, recipe, overrides, work)
        seconds[name] = read_json(models[name] / "tune" / RESULT)["seconds"]
    rows: list[dict[str, Any]] = []
    scores: dict[str, dict[str, Score]] = {}
    for name, model in models.items():
        folder = work / "scores" / name.replace(" ", "-")
        found = {
            split: measure(model, "exact-match", work / split / QUESTIONS, folder / split, work / "images")
            for split in ("data", "further")
        }
        if "one stage" not in name:
            found |= {other: measure(model, other, requested.world / other, folder / other) for other in others}
        scores[name] = found
        row: dict[str, Any] = {"model": name, "seconds": seconds.get(name, 0)}
        for split, of in (("held out", "data"), ("further", "further")):
            row[split] = with_interval(per_image([found[of]]), split)[0]
        rows.append(row)
    before = scores["before (the world run itself)"]
    changes = [
        {"model": name, "benchmark": other, "questions": len(before[other].items)}
        | {"before": round(with_interval(per_image([before[other]]), other)[0]["mean"], 1)}
        | {"change": with_interval(np.diff(per_image([before[other], scores[name][other]])), other)[0]}
        for name in scores
        if name.startswith("fine-tuned")
        for other in others
    ]
    aligned, fresh = (scores[f"one stage, {kind} connector"]["further"] for kind in ("aligned", "fresh"))
    gain = with_interval(np.diff(per_image([fresh, aligned])), "gain")[0]
    ratios = {"aligned minus fresh connector, points on further images": gain["mean"]}
    baseline = _majority(work / "further" / QUESTIONS)
    show(requested, ratios, rows, gain=gain, changes=changes, majority_class_baseline=baseline, rate=RATE)


def _majority(questions: Path) -> float:
    answers = [row["answer"] for row in read_json_lines(questions)]
    return round(100 * max(answers.count(answer) for answer in set(answers)) / len(answers), 1)


if __name__ == "__main__":
    main()
