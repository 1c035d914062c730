"""Seconds per training step: Olivine against plain `LlavaForConditionalGeneration` as LLaVA's scripts run it, and
against the same with a fused loss (PyTorch's `linear_cross_entropy`, where it has one).

    python benchmarks/train_step.py [--quick] [--json] [--out benchmarks/results/train-step-cpu.json]

Stage 1 (captions, connector alone) and stage 2 (LLaVA-665K's mix of lengths, connector and language model), with
vocabularies of 256k and 32k, then a sweep over batches. The methods alternate on the same batches; the ratio is the
median over turns. They start from the same weights, and their first losses must agree.
"""

import statistics
import sys
import time
from typing import Any

import torch
from loads import Shape, every_way, make_batches, make_pixels
from report import arguments, show


def seconds(way: Any, examples: Any, pixels: torch.Tensor) -> tuple[float, float]:
    began = time.perf_counter()
    loss = way.step(examples, pixels)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    spent = time.perf_counter() - began
    way.rest()
    return spent, loss


def compare(shape: Shape, stage: str, batch: int, turns: int) -> dict[str, Any]:
    ways = every_way(shape, stage)
    batches = make_batches(ways["olivine"].vlm, stage, batch, turns + 1)
    pixels = make_pixels(shape, batch)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn, examples in enumerate(batches):
        losses = {}
        # The order changes with every turn.
        for name in sorted(ways, reverse=bool(turn % 2)):
            spent, losses[name] = seconds(ways[name], examples, pixels)
            if turn:  # the first warms up
                taken[name].append(spent)
        if not turn:
            apart = max(losses.values()) - min(losses.values())
            assert apart < (2e-2 if torch.cuda.is_available() else 1e-4), f"they do not compute the same: {losses}"
    ratios = {
        name: [theirs / ours for theirs, ours in zip(taken[name], taken["olivine"], strict=True)]
        for name in ways
        if name != "olivine"
    }
    print(f"{stage}, vocabulary {shape.vocabulary:,}, batch {batch}: done", file=sys.stderr, flush=True)
    tokens = [sum(e.length for e in examples) for examples in batches[1:]]
    padded = [len(examples) * max(e.length for e in examples) for examples in batches[1:]]
    return {
        "stage": stage,
        "vocabulary": shape.vocabulary,
        "batch": batch,
        **{f"{name}_s": round(statistics.median(spent), 4) for name, spent in taken.items()},
        **{f"{name} / olivine": round(statistics.median(found), 2) for name, found in ratios.items()},
        "lowest": round(min(min(found) for found in ratios.values()), 2),
        "tokens": round(statistics.mean(tokens)),
        "padded_tokens": round(statistics.mean(padded)),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int)
    requested = parser.parse_args()
    turns = requested.turns or (1 if requested.quick else 5)
    large, small = (4096, 2048) if requested.quick else (256_000, 32_000)
    sizes: dict[str, int] = {"hidden": 64, "inter": 128, "layers": 2, "image": 112} if requested.quick else {}
    # Three conversations, since a fourth would take the plain method past 24 GB with the large vocabulary.
    rows = [
        compare(Shape(vocabulary=vocabulary, **sizes), stage, batch, turns)
        for vocabulary, stage, batch in (
            (large, "stage 1", 4),
            (large, "stage 2", 3),
            (small, "stage 1", 4),
            (small, "stage 2", 4),
        )
    ]
    sweep = [
        compare(Shape(vocabulary=small, **sizes), stage, batch, turns)
        for stage in ("stage 1", "stage 2")
        for batch in ((1, 2) if requested.quick else (1, 2, 8))
    ]
    ratios = {
        f"{row['stage']}, {row['vocabulary'] // 1000}k: {name}": row[name]
        for row in rows
        for name in ("plain / olivine", "fused / olivine")
        if name in row
    }
    for name in ("plain / olivine", "fused / olivine"):
        if name in sweep[0]:
            ratios[f"lowest of the sweep: {name}"] = min(row[name] for row in sweep)
    show(requested, ratios, rows + sweep)


if __name__ == "__main__":
    main()
