"""One shape and stage on a GPU, rung by rung: Olivine's own stage with savings removed or added, and padded batches.

`gpu` decides which shapes run, in which order, and for how long.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from flops import SampleSize, device_peak, step_operations
from gpu_data import write_samples
from gpu_stage import Measured, profile_step, run_stage
from loads import TRAINED, Plain, Shape, make_batches, make_pixels, model_recipe

from olivine.cost.estimate import DEVICES, Lengths, StageEstimate, estimate
from olivine.model import attention
from olivine.model.size import model_size
from olivine.recipe import Recipe
from olivine.training import stage as stage_module

CUDA = torch.cuda.is_available()
BATCH = 128
#: Steps that are not counted: the first ones compile, allocate memory and fill the queue of batches.
WARM = 2


class Bench:
    """One shape and stage: its samples on disk, and rungs that are run one after another."""

    def __init__(self, name: str, shape: Shape, stage: str, vlm: Any, folder: Path, *, small: bool) -> None:
        self.name, self.shape, self.stage, self.vlm = name, shape, stage, vlm
        self.batch, self.steps = (4, 1) if small else (BATCH, 5)
        self.folder = folder / name.replace(" ", "-")
        self.size = model_size(model_recipe(shape))
        count = self.batch * (WARM + self.steps)
        self.json = write_samples(self.folder, stage, count, vlm.tokenizer, 64 if small else 640)

    def recipe(self, *, batch: int = 0, steps: int = 0, **optimizer: Any) -> Recipe:
        return recipe_of(
            self.shape, self.stage, self.json, batch or self.batch, steps or WARM + self.steps, **optimizer
        )

    def through_stage(self, **optimizer: Any) -> dict[str, Any]:
        """One run of the stage; medians over its counted steps."""
        with tempfile.TemporaryDirectory() as folder:
            found = run_stage(self.vlm, self.recipe(**optimizer), Path(folder), warm=WARM)
        return self._row(found, **optimizer)

    def _row(self, found: Measured, **optimizer: Any) -> dict[str, Any]:
        config = self.vlm.model.config
        layers = config.vision_config.num_hidden_layers + 1 + config.vision_feature_layer
        by_part = [
            step_operations(
                self.size, sizes, trains_language="language" in TRAINED[self.stage], tower_layers_run=layers
            )
            for sizes in found.samples
        ]
        middle = sorted(range(len(found.seconds)), key=lambda i: found.seconds[i])[len(found.seconds) // 2]
        seconds, parts = found.seconds[middle], by_part[middle]
        planned = planned_of(self.recipe(**optimizer), [size for sizes in found.samples for size in sizes])
        tokens = sum(size.tokens for size in found.samples[middle])
        return {
            "seconds": round(seconds, 4),
            "slowest": round(max(found.seconds), 4),
            "waited_for_batches": round(found.waited[middle], 4),
            "tokens_a_second": round(tokens / seconds),
            "operations": sum(parts.values()),
            "share_by_part": {name: round(value / sum(parts.values()), 3) for name, value in parts.items()},
            "graphs": found.graphs,
            "graph_breaks": found.graph_breaks,
            "recompilations": found.recompilations,
            **({"peak_gb": round(found.peak / 1e9, 2)} if found.peak else {}),
            "planned_gb": round(planned.peak / 1e9, 2),
            **({"said": found.said} if found.said else {}),
        }

    def padded(self) -> dict[str, Any]:
        """As LLaVA's scripts do, images decoded beforehand; in micro-batches, halved until one fits."""
        batch = min(self.batch, 32)
        batches = make_batches(self.vlm, self.stage, batch, 3)
        pixels = make_pixels(self.shape, batch)
        for micro in (4, 2, 1):
            try:
                seconds = _padded_seconds(self.vlm, self.stage, batches, pixels, micro)
            except torch.OutOfMemoryError:
                clean()
                continue
            tokens = sum(example.length for example in batches[-1])
            return {"seconds": round(seconds, 4), "tokens_a_second": round(tokens / seconds), "micro_batch": micro}
        return {"out_of_memory": True}

    def rungs(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Yield rungs, most important first: time may run out."""
        yield "olivine", lambda: self.through_stage(compile=False)
        yield "layers compiled", lambda: self.through_stage(compile=True)
        yield "what a step is made of", lambda: profile_step(self.vlm, self.recipe(batch=4, steps=2))
        yield "padded, full logits", self.padded

        def grouped() -> dict[str, Any]:
            with without_varlen():
                return self.through_stage(compile=False)

        yield "attention by groups", grouped

        def cast_by_autocast() -> dict[str, Any]:
            with mock.patch.object(stage_module, "keeps_working_weights", return_value=False):
                return self.through_stage(compile=False)

        yield "weights cast by autocast", cast_by_autocast
        yield "activations checkpointed", lambda: self.through_stage(compile=False, checkpoint_activations=True)


class InMicroBatches(Plain):
    """Padded micro-batches whose gradients add up to one step."""

    micro = 4

    def backward(self, examples: Any, pixels: torch.Tensor) -> float:
        parts = [examples[start : start + self.micro] for start in range(0, len(examples), self.micro)]
        return sum(super(InMicroBatches, self).backward(part, pixels[: self.micro]) for part in parts) / len(parts)


def _padded_seconds(vlm: Any, stage: str, batches: list[Any], pixels: torch.Tensor, micro: int) -> float:
    way = InMicroBatches(vlm, TRAINED[stage])
    way.optimizer = torch.optim.AdamW(way.trained, lr=1e-5, fused=True)
    way.micro = micro
    taken = []
    for examples in batches:
        synchronise()
        began = time.perf_counter()
        way.step(examples, pixels)
        synchronise()
        taken.append(time.perf_counter() - began)
    way.rest()
    return sorted(taken[1:])[len(taken[1:]) // 2]


def recipe_of(shape: Shape, stage: str, json: Path, batch: int, steps: int, **optimizer: Any) -> Recipe:
    """A recipe of one stage over samples in `json`, with images beside it."""
    values = {
        "name": "s",
        "train": TRAINED[stage],
        "data": "d",
        "batch": batch,
        "lr": 1e-5,
        "steps": steps,
        "held_out": 0,
        "validate_every": 0,
        "save_every": 0,
    }
    return Recipe.model_validate(
        {
            "name": "gpu",
            "model": model_recipe(shape).model_dump(by_alias=True),
            "data": {"d": {"json": json, "images": json.parent / "images", "max_length": 4096}},
            "stages": [values],
            "optimizer": {"precision": "bf16" if CUDA else "fp32", **optimizer},
        }
    )


def planned_of(recipe: Recipe, sizes: list[SampleSize]) -> StageEstimate:
    """Return `olivine plan`'s estimate of a stage over these samples."""
    count = len(sizes)
    lengths = Lengths(
        samples=count,
        tokens=sum(s.tokens for s in sizes) / count,
        labels=sum(s.labels for s in sizes) / count,
        longest=max(s.tokens for s in sizes),
        images=sum(s.images for s in sizes) / count,
        source="measured",
    )
    name = device_peak()[0]
    return estimate(recipe, name if name in DEVICES else "h100", lengths={"d": lengths}).stages[0]


def unfit(shape: Shape, stage: str) -> str | None:
    """Return why a stage cannot be run on this device, in words; None if it can."""
    if not CUDA:
        return None
    # A sample of LLaVA's mix, about.
    needed = planned_of(recipe_of(shape, stage, Path("none.json"), BATCH, 1), [SampleSize(850, 100, 1)]).peak
    there = torch.cuda.get_device_properties(0).total_memory
    return f"olivine plan: {needed / 1e9:.0f} GB of {there / 1e9:.0f}" if needed > there else None


@contextmanager
def without_varlen() -> Iterator[None]:
    """Attention by groups, whatever the device."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(attention, "why_not_varlen", return_value="not asked for here"))
        yield


def restore(vlm: Any) -> None:
    """Undo what a rung did to the model itself, and free its memory."""
    for layer in vlm.layers:
        layer._compiled_call_impl = None
    for module in vlm.model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False
    torch._dynamo.reset()
    clean()


def synchronise() -> None:
    if CUDA:
        torch.cuda.synchronize()


def clean() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
