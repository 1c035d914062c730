"""Peak memory of a training step: each method in its own process, two steps, the highest resident size.

    python benchmarks/memory.py [--quick] [--json] [--out benchmarks/results/memory-cpu.json]

On CUDA the figure is the allocator's peak instead. `base` is what the process held before its first step: libraries,
weights and data, the same for all.
"""

import json
import resource
import subprocess
import sys
from typing import Any

import torch
from loads import WAYS, Shape, make_batches, make_pixels, make_way
from report import arguments, show


def megabytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(way: str, stage: str, batch: int, sizes: dict[str, int]) -> dict[str, Any]:
    shape = Shape(**sizes)
    made = make_way(way, shape, stage)
    pixels = make_pixels(shape, batch)
    base = megabytes()
    for examples in make_batches(made.vlm, stage, batch, 2):
        made.step(examples, pixels)
    return {
        "way": way,
        "stage": stage,
        "batch": batch,
        "vocabulary": shape.vocabulary,
        "base_mb": round(base),
        "peak_mb": round(megabytes()),
    }


def apart(way: str, stage: str, batch: int, sizes: dict[str, int]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", json.dumps([way, stage, batch, sizes])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{way}, {stage} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--measure", help="one measurement, in this process (used by the script itself)")
    requested = parser.parse_args()
    if requested.measure:
        sys.stdout.write(json.dumps(measure(*json.loads(requested.measure))))
        return
    small = {"hidden": 64, "inter": 128, "layers": 2, "image": 112} if requested.quick else {}
    rows, ratios = [], {}
    for vocabulary in (16_000,) if requested.quick else (256_000, 32_000):
        for stage in ("stage 1", "stage 2"):
            found = {way: apart(way, stage, 4, {**small, "vocabulary": vocabulary}) for way in WAYS}
            rows += list(found.values())
            for way in found.keys() - {"olivine"}:
                label = f"{stage}, {vocabulary // 1000}k: {way} / olivine"
                ratios[label] = round(found[way]["peak_mb"] / found["olivine"]["peak_mb"], 2)
    show(requested, ratios, rows)


if __name__ == "__main__":
    main()
