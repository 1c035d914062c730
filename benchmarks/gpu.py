"""LLaVA-Gemma's 2B and 7B shapes with random weights on a GPU, through the stage's own step, in nine minutes in all.

    python benchmarks/gpu.py [--quick] [--json] [--shapes 2b,7b] [--minutes 9] [--out benchmarks/results/gpu-h100.json]

First attention without padding against SDPA, forward and backward, at Gemma's width of 256, and the loss against
PyTorch's fused one. Then, for each shape and stage that fits, steps of 128 samples as `olivine train` takes them,
images decoded and copied meanwhile; each rung of the ladder removes or adds one saving. Medians over steps; MFU is
relative to the device's stated peak (the formula is printed), beside the share of a measured matrix product. What does
not fit, or would take too long, is listed with the reason. Results are written after every row. Without a GPU, or with
--quick, everything runs at a small size.
"""

import os

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # before CUDA starts

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flops import FORMULA, device_peak
from gpu_answering import answering
from gpu_attention import attention_rows
from gpu_bench import Bench, clean, restore, synchronise, unfit
from gpu_loss import loss_rows
from gpu_stage import compile_in_small
from loads import Shape, make_model
from report import arguments, show

from olivine.accelerators import choose_arithmetic

SHAPES = {
    "2b": Shape(256_000, 2048, 18, 16384, 8, 1, 1024, 24),
    "7b": Shape(256_000, 3072, 28, 24576, 16, 16, 1024, 24, head_width=256),
    "small": Shape(4096, 64, 2, 128, 4, 1, 64, 2, image=112),
    "small 7b": Shape(4096, 96, 2, 192, 4, 4, 64, 2, image=112, head_width=32),
}
CUDA = torch.cuda.is_available()


class Clock:
    """The time left of the budget."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


def matmul_peak() -> float:
    """Return the operations per second of a large bf16 product, the best of five rounds."""
    side, repeats = (8192, 20) if CUDA else (512, 5)
    a, b = torch.randn(2, side, side, device="cuda" if CUDA else "cpu", dtype=torch.bfloat16)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(repeats):
            a @ b
        synchronise()
        best = max(best, 2 * side**3 * repeats / (time.perf_counter() - began))
    return best


def climb(bench: Bench, clock: Clock, peaks: tuple[float, float], keep: Callable[[dict[str, Any]], None]) -> None:
    """Run as many rungs of a shape and stage as time allows; `keep` gets each row as it comes."""
    head = {"shape": bench.name, "stage": bench.stage, "batch": bench.batch}
    longest = 30.0 if CUDA else 0.0
    for label, run in bench.rungs():
        row: dict[str, Any] = {**head, "rung": label}
        if clock.left < 1.2 * longest:
            keep({**row, "skipped": f"{clock.left:.0f} s are left, a rung took {longest:.0f}"})
            continue
        began = time.monotonic()
        try:
            row |= run()
        except torch.OutOfMemoryError:
            row["out_of_memory"] = True
        if "operations" in row:
            row["mfu"] = round(row["operations"] / row["seconds"] / peaks[0], 3)
            row["share_of_matmul"] = round(row["operations"] / row["seconds"] / peaks[1], 3)
        restore(bench.vlm)
        row["took"] = round(time.monotonic() - began, 1)
        longest = max(longest, row["took"])
        keep(row)


def ladder(requested: argparse.Namespace, clock: Clock, peaks: tuple[float, float], keep: Any) -> None:
    names = requested.shapes.split(",") if not requested.small else ["small", "small 7b"]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            shape, vlm = SHAPES[name], None
            for stage in ("stage 2", "stage 1"):
                reason = unfit(shape, stage)
                # Creating a 7B model takes a minute, and each step seconds.
                if reason is None and "7b" in name and clock.left < (100 if CUDA else 0):
                    reason = f"{clock.left:.0f} s are left"
                if reason is not None:
                    keep({"shape": name, "stage": stage, "rung": "all", "skipped": reason})
                    continue
                vlm = vlm or make_model(shape)
                climb(Bench(name, shape, stage, vlm, Path(folder), small=requested.small), clock, peaks, keep)
            if vlm is not None and name == names[0] and clock.left > (40 if CUDA else 0):
                for row in answering(vlm, Path(folder) / "asked", small=requested.small):
                    keep({"shape": name, **row})
            del vlm
            clean()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", default="2b,7b", help="comma-separated, of 2b and 7b")
    parser.add_argument("--minutes", type=float, default=8.5, help="no rung starts after this many minutes")
    requested = parser.parse_args()
    requested.small = requested.quick or not CUDA
    clock = Clock(requested.minutes)
    arithmetic = choose_arithmetic("bf16", "cuda" if CUDA else "cpu")
    name, stated = device_peak()
    measured = matmul_peak()
    more = {
        "formula": FORMULA,
        "peak_tflops": {"stated": round(stated / 1e12, 1), "of": name, "measured_matmul": round(measured / 1e12, 2)},
        "arithmetic": arithmetic,
    }
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        show(requested, _ratios(rows), rows, quiet=True, **more)

    with compile_in_small(requested.small):
        for row in (*attention_rows(small=requested.small), *loss_rows(small=requested.small)):
            keep(row)
        ladder(requested, clock, (stated, measured), keep)
    show(requested, _ratios(rows), rows, **more)
    apart = [row["largest_difference"] for row in rows if "largest_difference" in row]
    assert max(apart) < 2e-2, "attention without padding differs"


def _ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the tokens per second of each rung relative to padded batches."""
    found = {(r["shape"], r["stage"], r["rung"]): r["tokens_a_second"] for r in rows if "tokens_a_second" in r}
    ratios = {}
    for (shape, stage, rung), value in found.items():
        base = found.get((shape, stage, "padded, full logits"))
        if base:
            ratios[f"{shape}, {stage}: {rung} / padded, full logits"] = round(value / base, 2)
    return ratios


if __name__ == "__main__":
    main()
