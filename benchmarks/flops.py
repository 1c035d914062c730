"""The useful operations of a training step, counted from the samples it takes, and the peak rates of devices.

MFU = operations of the step / seconds of the step / the device's peak in dense bf16, as its maker states it.
Recomputed activations, padding and dropped work are not useful and are not counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from olivine.cost.estimate import DEVICES
from olivine.model.size import ModelSize

FORMULA = (
    "blocks 2NT x passes; head 2VHL x passes (L labelled tokens only); attention 4 layers heads width sum(n^2)/2 x "
    "attention passes; connector 2CP x 3; tower forward 2W(p+1)I + 4 layers width (p+1)^2 I, up to the layer that is "
    "used. passes: 3 where the language model trains (forward, gradients of inputs, of weights), 2 where it is frozen "
    "and passes gradients to the connector; attention passes: 3. N weights of the blocks, T tokens, n those of one "
    "sample, V vocabulary, H width, C weights of the connector, P image tokens, W weights of the tower's blocks that "
    "run, p patches of an image, I images"
)


@dataclass(frozen=True)
class SampleSize:
    """Tokens (image tokens included), labelled ones, and images of one sample."""

    tokens: int
    labels: int
    images: int


def step_operations(
    size: ModelSize, samples: Iterable[SampleSize], *, trains_language: bool, tower_layers_run: int
) -> dict[str, float]:
    """Return the useful operations of a step by module; see `FORMULA`."""
    selected = list(samples)
    tokens, labels, images = (
        sum(getattr(sample, name) for sample in selected) for name in ("tokens", "labels", "images")
    )
    squares = sum(sample.tokens**2 for sample in selected)
    passes = 3 if trains_language else 2
    seen = size.patches + 1
    tower = size.tower * tower_layers_run / size.tower_layers
    return {
        "blocks": 2.0 * size.blocks * tokens * passes,
        "head": 2.0 * size.table * labels * passes,
        "attention": 4.0 * size.layers * size.heads * size.head_dim * squares / 2 * 3,
        "connector": 2.0 * size.connector * size.patches * images * 3,
        "tower": images * (2.0 * tower * seen + 4.0 * tower_layers_run * size.tower_width * seen**2),
    }


def device_peak() -> tuple[str, float]:
    """Return (name in `olivine plan`'s table, dense bf16 operations per second); NaN for a GPU that is not in it."""
    if not torch.cuda.is_available():
        return "cpu", DEVICES["cpu"].peak
    name = torch.cuda.get_device_name().lower().replace(" ", "").replace("geforce", "")
    # The longest name first: an L40S is no L4.
    for known in sorted(DEVICES, key=len, reverse=True):
        if known.removesuffix("-40") in name:
            return known, DEVICES[known].peak
    return name, float("nan")
