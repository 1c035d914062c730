"""How a step's cost grows with sequence length, vocabulary, labelled tokens and batch; and on two processes.

    python benchmarks/scaling.py [--quick] [--json] [--out FILE] [--plot docs/scaling.png]

Olivine alone, stage 1's modules. Processes are measured by whole runs under torchrun over gloo, from their own logs.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from loads import Olivine, Shape, example, make_model, make_pixels
from report import arguments, show

from olivine.files import read_json_lines
from olivine.testing import tiny_model_recipe, write_dataset

_LABELS = {"text": "unlabelled tokens a sample", "labels": "labelled tokens a sample", "batch": "samples a step"}


def step_seconds(shape: Shape, batch: int, text: int, labels: int, turns: int) -> float:
    way = Olivine(make_model(shape), ("connector",))
    draw = np.random.default_rng(0)
    examples = [example(way.vlm, draw, text, labels, True) for _ in range(batch)]
    pixels = make_pixels(shape, batch)
    taken = []
    for _ in range(turns + 1):
        began = time.perf_counter()
        way.step(examples, pixels)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def sweep(quick: bool) -> list[dict[str, Any]]:
    sizes: dict[str, int] = {"hidden": 64, "inter": 128, "layers": 2, "image": 112} if quick else {}
    turns = 1 if quick else 5
    usual = {"vocabulary": 4000 if quick else 64_000, "batch": 2, "text": 300, "labels": 32}
    axes = {
        "text": (100, 300) if quick else (100, 400, 700, 1000, 1400),
        "labels": (32, 128) if quick else (64, 256, 512, 768, 1024),
        "vocabulary": (2000, 8000) if quick else (8000, 32_000, 64_000, 128_000, 256_000),
        "batch": (1, 2) if quick else (1, 2, 4, 8),
    }
    # Text that is not labelled must cost the same whatever the vocabulary: it is swept at both ends of that axis.
    ends = {"text": (axes["vocabulary"][0], axes["vocabulary"][-1])}
    # Long samples, so that the labels' own cost is visible.
    longer = {"labels": {"text": 300 if quick else 1100}}
    rows = []
    for axis, values in axes.items():
        for vocabulary in ends.get(axis, (usual["vocabulary"],)):
            for value in values:
                at = {**usual, "vocabulary": vocabulary, **longer.get(axis, {}), axis: value}
                shape = Shape(vocabulary=at.pop("vocabulary"), **sizes)
                taken = step_seconds(shape, turns=turns, **at)
                row = {"axis": axis, "value": value, "vocabulary": shape.vocabulary, "seconds": round(taken, 4)}
                rows.append(row)
    return rows


def process_rows(quick: bool) -> list[dict[str, Any]]:
    """Median step of the same run on one process and on two, one thread each."""
    steps = 6 if quick else 40
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_dataset(folder / "data", items=60)
        model = tiny_model_recipe().model_dump(by_alias=True)
        if not quick:
            model["language"]["from"].update(hidden_size=256, intermediate_size=1024, head_dim=64)
        recipe = {
            "name": "scaling",
            "model": model,
            "data": {"all": {"json": str(dataset), "images": str(dataset.parent / "images")}},
            "stages": [
                {
                    "name": "a",
                    "train": ["connector", "language"],
                    "data": "all",
                    "batch": 48,
                    "lr": 1e-3,
                    "steps": steps,
                    "sequence_tokens": 256,
                    "validate_every": 0,
                }
            ],
            "optimizer": {"precision": "fp32"},
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        for processes in (1, 2):
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes > 1 else []
            output = folder / str(processes)
            command = [
                sys.executable,
                *launch,
                "-m",
                "olivine",
                "train",
                str(folder / "recipe.yaml"),
                f"output={output}",
            ]
            done = subprocess.run(
                command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"the run on {processes} processes failed:\n{done.stderr[-2000:]}")
            taken = [row["seconds"] for row in read_json_lines(output / "a" / "metrics.jsonl") if "loss" in row]
            rows.append({"axis": "processes", "value": processes, "seconds": round(statistics.median(taken[1:]), 4)})
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = pyplot.subplots(1, len(axes), figsize=(3.2 * len(axes), 3), constrained_layout=True)
    for axis, panel in zip(axes, panels, strict=True):
        for name, lines in _lines(rows, axis).items():
            panel.plot(*zip(*lines, strict=True), marker="o", label=name)
        if len(_lines(rows, axis)) > 1:
            panel.legend(title="vocabulary", frameon=False)
        highest = max(row["seconds"] for row in rows if row["axis"] == axis)
        widest = max(row["value"] for row in rows if row["axis"] == axis)
        panel.set(
            xlabel=_LABELS.get(axis, axis), ylabel="seconds a step", ylim=(0, 1.1 * highest), xlim=(0, 1.1 * widest)
        )
        if axis == "processes":
            panel.set_xticks([row["value"] for row in rows if row["axis"] == axis])
        else:
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _lines(rows: list[dict[str, Any]], axis: str) -> dict[str, list[tuple[int, float]]]:
    """(value, seconds) of an axis, by vocabulary where that is not the axis itself."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["axis"] == axis:
            name = "" if axis == "vocabulary" else f"{row.get('vocabulary', 0):,}"
            lines.setdefault(name, []).append((row["value"], row["seconds"]))
    return lines


def growth(rows: list[dict[str, Any]], axis: str) -> float:
    """How many times the cost grows from the axis's smallest value to its largest."""
    found = [row["seconds"] for row in rows if row["axis"] == axis]
    return round(found[-1] / found[0], 2)


def straightness(rows: list[dict[str, Any]], axis: str) -> float:
    """The share of an axis's variance in cost that a straight line explains (R squared)."""
    (points,) = _lines(rows, axis).values()
    values, seconds = np.array(points, float).T
    return round(float(np.corrcoef(values, seconds)[0, 1] ** 2), 4)


def cost_of_unlabelled(rows: list[dict[str, Any]]) -> float:
    """Return the ratio of an unlabelled token's marginal cost between the largest and the smallest vocabulary."""
    slopes = [np.polyfit(*np.array(line, float).T, 1)[0] for line in _lines(rows, "text").values()]
    return round(float(slopes[-1] / slopes[0]), 2)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--plot", type=Path, help="draw it there (needs matplotlib)")
    requested = parser.parse_args()
    rows = sweep(requested.quick) + process_rows(requested.quick)
    if requested.plot:
        plot(rows, requested.plot)
    ratios = {
        f"cost from the smallest {axis} to the largest": growth(rows, axis)
        for axis in ("labels", "vocabulary", "batch")
    }
    ratios["unlabelled token: largest vocabulary / smallest"] = cost_of_unlabelled(rows)
    ratios["labels: R squared of a straight line"] = straightness(rows, "labels")
    ratios["one process / two"] = round(1 / growth(rows, "processes"), 2)
    show(requested, ratios, rows)


if __name__ == "__main__":
    main()
