"""LLaVA-Gemma's 2B and 7B shapes with random weights on a GPU: tokens a second, utilisation, peak memory, by saving.

    python benchmarks/gpu.py [--quick] [--json] [--shapes 2b,7b] [--out benchmarks/results/gpu-h100.json]

The ladder adds one saving after another to padded batches with full logits. Utilisation is the step's operations, as
`olivine plan` counts them, over what a large bf16 product reaches on the same device. Attention without padding is
compared with SDPA first. Without a GPU, or with --quick, the same runs at a small size, so that the script stays sound.
"""

import gc
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from loads import TRAINED, Olivine, Plain, Shape, Way, make_batches, make_model, make_pixels, model_recipe
from report import arguments, show

from olivine.data.packing import pack
from olivine.model import attention
from olivine.recipe import Recipe
from olivine.train.plan import Lengths, StageEstimate, estimate

SHAPES = {
    "2b": Shape(256_000, 2048, 18, 16384, 8, 1, 1024, 24),
    "7b": Shape(256_000, 3072, 28, 24576, 16, 16, 1024, 24),
    "small": Shape(4096, 64, 2, 128, 4, 1, 64, 2, image=112),
}
CUDA = torch.cuda.is_available()


def matmul_peak() -> float:
    """Operations a second of a large bf16 product, the best of five rounds."""
    side, repeats = (8192, 20) if CUDA else (512, 5)
    a, b = torch.randn(2, side, side, device="cuda" if CUDA else "cpu", dtype=torch.bfloat16)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(repeats):
            a @ b
        synchronize()
        best = max(best, 2 * side**3 * repeats / (time.perf_counter() - began))
    return best


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


@contextmanager
def without_varlen() -> Iterator[None]:
    with mock.patch.object(attention, "takes_varlen", return_value=False):
        yield


def largest_difference(shape: Shape) -> float:
    """Between SDPA group by group and the kernel without padding, in bf16, relative to the largest value."""
    vlm = make_model(SHAPES["small"])
    examples = make_batches(vlm, "stage 2", 6, 1)[0]
    row = pack(examples, [0] * sum(e.sample.image is not None for e in examples)).to(torch.device("cuda"))
    width = shape.hidden // shape.heads
    query = torch.randn(1, shape.heads, len(row.ids), width, device="cuda", dtype=torch.bfloat16)
    key, value = torch.randn(2, 1, shape.kv_heads, len(row.ids), width, device="cuda", dtype=torch.bfloat16)
    spans, _ = attention.packed_attention(
        torch.nn.Identity(), query, key, value, None, packed_groups=row.groups, packed_spans=row.spans
    )
    groups, _ = attention.packed_attention(torch.nn.Identity(), query, key, value, None, packed_groups=row.groups)
    return float((spans - groups).abs().max() / groups.abs().max())


def planned(shape: Shape, stage: str, batch: int, examples: list[Any], spare: bool) -> StageEstimate:
    """What `olivine plan` says of the very batches that are run."""
    flat = [e for some in examples for e in some]
    lengths = Lengths(
        samples=len(flat),
        tokens=sum(e.length for e in flat) / len(flat),
        labels=sum(e.labels for e in flat) / len(flat),
        longest=max(e.length for e in flat),
        pictures=sum(e.sample.image is not None for e in flat) / len(flat),
        source="measured",
    )
    recipe = Recipe.model_validate(
        {
            "name": "gpu",
            "model": model_recipe(shape).model_dump(by_alias=True),
            "data": {"d": {"json": "none"}},
            "stages": [{"name": "s", "train": TRAINED[stage], "data": "d", "batch": batch, "lr": 1e-4, "steps": 1}],
            "optimizer": {"precision": "bf16" if CUDA else "fp32", "checkpoint_activations": spare},
        }
    )
    return estimate(recipe, "h100" if CUDA else "cpu", lengths={"d": lengths}).stages[0]


def rungs(vlm: Any, stage: str) -> Iterator[tuple[str, Any]]:
    """Each saving on top of those before it; the last is made for memory, and costs time."""
    yield "padded, full logits", lambda: Plain(vlm, TRAINED[stage])
    yield "packed, labelled loss", lambda: Olivine(vlm, TRAINED[stage])
    if CUDA:
        yield "without padding in attention", lambda: Olivine(vlm, TRAINED[stage])

    def compiled() -> Way:
        attention.compile_layers(vlm.layers, vlm.device)
        return Olivine(vlm, TRAINED[stage])

    def spared() -> Way:
        made = Olivine(vlm, TRAINED[stage])
        vlm.checkpoint_activations(TRAINED[stage])
        return made

    if CUDA:
        yield "layers compiled", compiled
    yield "activations checkpointed", spared


def climb(name: str, stage: str, batch: int, turns: int, peak: float) -> list[dict[str, Any]]:
    shape = SHAPES[name]
    vlm = make_model(shape)
    if CUDA:
        vlm.model.to("cuda")
        vlm.cast(torch.bfloat16)
        vlm.cast(torch.float32, TRAINED[stage])
    batches = make_batches(vlm, stage, batch, turns + 2)
    pixels = make_pixels(shape, batch)
    rows = []
    for label, make in rungs(vlm, stage):
        row: dict[str, Any] = {"shape": name, "stage": stage, "batch": batch, "rung": label}
        try:
            with without_varlen() if label == "packed, labelled loss" else mock.patch.dict({}):
                row |= run(make(), batches, pixels, turns)
        except torch.OutOfMemoryError:
            row["out_of_memory"] = True
        else:
            spare = label == "activations checkpointed"
            plan = planned(shape, stage, batch, batches[2:], spare)
            useful = planned(shape, stage, batch, batches[2:], False).operations
            row["share_of_matmul_peak"] = round(useful / row["seconds"] / peak, 3)
            row["planned_gb"] = round(plan.peak / 1e9, 2)
        rows.append(row)
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
    return rows


def run(way: Way, batches: list[Any], pixels: torch.Tensor, turns: int) -> dict[str, Any]:
    for examples in batches[:2]:  # the first two warm up and compile
        way.step(examples, pixels)
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for examples in batches[2 : 2 + turns]:
        synchronize()
        began = time.perf_counter()
        way.step(examples, pixels)
        synchronize()
        taken.append(time.perf_counter() - began)
    tokens = statistics.mean(sum(e.length for e in examples) for examples in batches[2:])
    seconds = statistics.mean(taken)
    result = {"seconds": round(seconds, 4), "tokens_a_second": round(tokens / seconds)}
    if CUDA:
        result["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    way.optimizer.zero_grad(set_to_none=True)
    return result


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", default="2b,7b" if CUDA else "small")
    wanted = parser.parse_args()
    names = ["small"] if wanted.quick or not CUDA else wanted.shapes.split(",")
    turns, batch = (1, 4) if wanted.quick or not CUDA else (5, 16)
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    peak = matmul_peak()
    rows = [row for name in names for stage in TRAINED for row in climb(name, stage, batch, turns, peak)]
    ratios = {}
    for name in names:
        for stage in TRAINED:
            found = {
                r["rung"]: r["seconds"] for r in rows if (r["shape"], r["stage"]) == (name, stage) and "seconds" in r
            }
            first = found.get("padded, full logits")
            ratios |= {f"{name}, {stage}: {k}": round(first / v, 2) for k, v in found.items() if first}
    more: dict[str, Any] = {"matmul_peak_tflops": round(peak / 1e12, 3)}
    if CUDA:
        more["varlen_against_sdpa"] = {name: largest_difference(SHAPES[name]) for name in names}
        assert max(more["varlen_against_sdpa"].values()) < 2e-2, "attention without padding says something else"
    show(wanted, ratios, rows, **more)


if __name__ == "__main__":
    main()
