"""What both towers share: their common shape, images as tensors, and the linear probe that judges their patches.

How each learns is in `clip` and `dinov2`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from olivine.world.drawing import draw
from olivine.world.sampling import scenes
from olivine.world.scene import COLOURS, KINDS, SIDE, Scene, Thing


@dataclass(frozen=True, slots=True)
class TowerShape:
    """A vision transformer's shape; CLIP and DINOv2 have the same."""

    hidden: int = 96
    layers: int = 4
    heads: int = 4
    patch: int = 16

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return SIDE // self.patch


SHAPE = TowerShape()
#: Which hidden state a language model is shown: LLaVA's choice, the last but one.
LAYER = -2
#: On processors torch's fused attention takes most of a step for its backward pass in bf16; at these lengths, whole
#: matrices of scores cost little (a step of tiny-CLIP on scenes: 0.58 s of one core fused, 0.31 plainly).
TRAINING_ATTENTION = "eager"


def as_pixels(images: NDArray[np.uint8], statistics: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    """`[images, side, side, 3]` bytes to `[images, 3, side, side]` float32, normalised by (means, deviations)."""
    mean, deviation = (np.asarray(values, np.float32) for values in statistics)
    values = (images.astype(np.float32) / 255 - mean) / deviation
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def close_up(
    image: NDArray[np.uint8], thing: Thing, side: int = SIDE // 2, shape: TowerShape = SHAPE
) -> NDArray[np.uint8]:
    """The thing's surroundings, `side` pixels wide and high, cut along the patches' borders."""
    left, top = (
        min(max(round((middle - side / 2) / shape.patch), 0) * shape.patch, SIDE - side)
        for middle in (thing.x, thing.y)
    )
    return image[top : top + side, left : left + side]


def patches_of(tower: nn.Module, pixels: Tensor, layer: int = LAYER) -> Tensor:
    """`[images, patches, hidden]`: one hidden state without its class token."""
    device = next(tower.parameters()).device
    states: Tensor = tower(pixels.to(device), output_hidden_states=True).hidden_states[layer]
    return states[:, 1:]


def covered(thing: Thing, shape: TowerShape = SHAPE) -> list[int]:
    """The patches whose middle lies on the thing's square; the nearest one if there is none."""
    found = [
        row * shape.grid + column
        for row in range(shape.grid)
        for column in range(shape.grid)
        if abs((column + 0.5) * shape.patch - thing.x) <= thing.radius
        and abs((row + 0.5) * shape.patch - thing.y) <= thing.radius
    ]
    nearest = min(int(thing.y / shape.patch), shape.grid - 1) * shape.grid
    return found or [nearest + min(int(thing.x / shape.patch), shape.grid - 1)]


def around(thing: Thing, shape: TowerShape = SHAPE) -> list[int]:
    """The four patches about the thing's middle, row by row."""
    row, column = (min(max(round(middle / shape.patch) - 1, 0), shape.grid - 2) for middle in (thing.y, thing.x))
    return [(row + down) * shape.grid + column + right for down in (0, 1) for right in (0, 1)]


@torch.no_grad()
def probe(
    encode: Callable[[NDArray[np.uint8]], Tensor], seed: int, train: int = 8000, test: int = 1000
) -> dict[str, dict[str, float]]:
    """Accuracy, in percent, of linear classifiers of each thing's kind and colour, in two ways.

    `of_patches` are given the four patches about its middle one after the other, as tokens come to a language model;
    `of_their_mean` the mean over the patches that it covers, which says less: what its left half shows is not told from
    its right.

    Args:
        encode: images `[n, side, side, 3]` to patch features `[n, patches, hidden]`.
        seed: of the world.
        train, test: how many scenes the classifiers learn from and are tried on; none was trained on.
    """
    learnt, tried = (
        _things(encode, list(scenes(seed, split, count)))
        for split, count in (("probe-train", train), ("probe-test", test))
    )
    (features, things), (new_features, new_things) = learnt, tried
    return {
        way: {
            name: _linear((features[way], things), (new_features[way], new_things), name, classes)
            for name, classes in (("kind", tuple(KINDS)), ("colour", COLOURS))
        }
        for way in features
    }


def _things(
    encode: Callable[[NDArray[np.uint8]], Tensor], shown: Sequence[Scene]
) -> tuple[dict[str, Tensor], list[Thing]]:
    ways: dict[str, list[Tensor]] = {"of_patches": [], "of_their_mean": []}
    things: list[Thing] = []
    for start in range(0, len(shown), 100):
        some = shown[start : start + 100]
        patches = encode(np.stack([draw(scene) for scene in some])).float().cpu()
        for place, scene in enumerate(some):
            for thing in scene.things:
                ways["of_patches"].append(patches[place, around(thing)].flatten())
                ways["of_their_mean"].append(patches[place, covered(thing)].mean(0))
                things.append(thing)
    return {way: torch.stack(features) for way, features in ways.items()}, things


@torch.enable_grad()
def _linear(
    learnt: tuple[Tensor, list[Thing]], tried: tuple[Tensor, list[Thing]], name: str, classes: Sequence[str]
) -> float:
    middle, spread = learnt[0].mean(0), learnt[0].std(0) + 1e-6

    def targets(things: Sequence[Thing]) -> Tensor:
        return torch.tensor([classes.index(getattr(thing, name)) for thing in things])

    x, y = (learnt[0] - middle) / spread, targets(learnt[1])
    weight = torch.zeros(len(classes), x.shape[1], requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + 1e-4 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    guess = ((tried[0] - middle) / spread @ weight.T + bias).argmax(-1)
    return round(100 * float((guess == targets(tried[1])).float().mean()), 2)
