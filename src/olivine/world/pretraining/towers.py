"""What the towers share: their common shape, images as tensors, and the linear probe that measures their patches.

How each learns is in `clip`, `siglip` and `dinov2`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from olivine.world.drawing import draw
from olivine.world.sampling import sample_scenes
from olivine.world.scene import CLASSES, COLOURS, SIDE, Scene, SceneObject


@dataclass(frozen=True, slots=True)
class TowerShape:
    """A vision transformer's shape; all towers have the same."""

    hidden: int = 96
    layers: int = 4
    heads: int = 4
    patch: int = 16

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return SIDE // self.patch


SHAPE = TowerShape()
#: Which hidden state a language model receives: LLaVA's choice, the second-to-last.
LAYER = -2
#: On processors torch's fused attention takes most of a step for its backward pass in bf16; at these lengths, full
#: score matrices cost little (a step of tiny-CLIP on scenes: 0.58 s of one core fused, 0.31 s eager).
TRAINING_ATTENTION = "eager"


def as_pixels(images: NDArray[np.uint8], statistics: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    """`[images, side, side, 3]` bytes to `[images, 3, side, side]` float32, normalised by (means, deviations)."""
    mean, deviation = (np.asarray(values, np.float32) for values in statistics)
    values = (images.astype(np.float32) / 255 - mean) / deviation
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def close_up(
    image: NDArray[np.uint8], obj: SceneObject, side: int = SIDE // 2, shape: TowerShape = SHAPE
) -> NDArray[np.uint8]:
    """Return the object's surroundings, `side` pixels wide and high, cut along the patches' borders."""
    left, top = (
        min(max(round((middle - side / 2) / shape.patch), 0) * shape.patch, SIDE - side) for middle in (obj.x, obj.y)
    )
    return image[top : top + side, left : left + side]


def patches_of(tower: nn.Module, pixels: Tensor, layer: int = LAYER, *, prefix: int = 1) -> Tensor:
    """`[images, patches, hidden]`: one hidden state without the `prefix` tokens before its patches."""
    device = next(tower.parameters()).device
    states: Tensor = tower(pixels.to(device), output_hidden_states=True).hidden_states[layer]
    return states[:, prefix:]


def covered(obj: SceneObject, shape: TowerShape = SHAPE) -> list[int]:
    """Return the patches whose middle lies on the object's square; the nearest one if there is none."""
    found = [
        row * shape.grid + column
        for row in range(shape.grid)
        for column in range(shape.grid)
        if abs((column + 0.5) * shape.patch - obj.x) <= obj.radius
        and abs((row + 0.5) * shape.patch - obj.y) <= obj.radius
    ]
    nearest = min(int(obj.y / shape.patch), shape.grid - 1) * shape.grid
    return found or [nearest + min(int(obj.x / shape.patch), shape.grid - 1)]


def around(obj: SceneObject, shape: TowerShape = SHAPE) -> list[int]:
    """Return the four patches around the object's middle, row by row."""
    row, column = (min(max(round(middle / shape.patch) - 1, 0), shape.grid - 2) for middle in (obj.y, obj.x))
    return [(row + down) * shape.grid + column + right for down in (0, 1) for right in (0, 1)]


@torch.no_grad()
def probe(
    encode: Callable[[NDArray[np.uint8]], Tensor], seed: int, train: int = 8000, test: int = 1000
) -> dict[str, dict[str, float]]:
    """Return the accuracy, in percent, of linear classifiers of each object's class and colour, in two ways.

    `of_patches` concatenates the four patches around its middle, as a language model receives tokens;
    `of_their_mean` takes the mean over the patches that it covers, which says less: its left half is not
    distinguished from its right.

    Args:
        encode: images `[n, side, side, 3]` to patch features `[n, patches, hidden]`.
        seed: of the world.
        train, test: how many scenes the classifiers are trained and tested on; the tower was trained on none of them.
    """
    learnt, tried = (
        _objects(encode, list(sample_scenes(seed, split, count)))
        for split, count in (("probe-train", train), ("probe-test", test))
    )
    (features, objects), (new_features, new_objects) = learnt, tried
    return {
        way: {
            key: _linear((features[way], objects), (new_features[way], new_objects), attribute, labels)
            for key, attribute, labels in (("kind", "class_name", tuple(CLASSES)), ("colour", "colour", COLOURS))
        }
        for way in features
    }


def _objects(
    encode: Callable[[NDArray[np.uint8]], Tensor], scenes: Sequence[Scene]
) -> tuple[dict[str, Tensor], list[SceneObject]]:
    ways: dict[str, list[Tensor]] = {"of_patches": [], "of_their_mean": []}
    objects: list[SceneObject] = []
    for start in range(0, len(scenes), 100):
        some = scenes[start : start + 100]
        patches = encode(np.stack([draw(scene) for scene in some])).float().cpu()
        for index, scene in enumerate(some):
            for obj in scene.objects:
                ways["of_patches"].append(patches[index, around(obj)].flatten())
                ways["of_their_mean"].append(patches[index, covered(obj)].mean(0))
                objects.append(obj)
    return {way: torch.stack(features) for way, features in ways.items()}, objects


@torch.enable_grad()
def _linear(
    learnt: tuple[Tensor, list[SceneObject]],
    tried: tuple[Tensor, list[SceneObject]],
    attribute: str,
    labels: Sequence[str],
) -> float:
    middle, spread = learnt[0].mean(0), learnt[0].std(0) + 1e-6

    def targets(objects: Sequence[SceneObject]) -> Tensor:
        return torch.tensor([labels.index(getattr(obj, attribute)) for obj in objects])

    x, y = (learnt[0] - middle) / spread, targets(learnt[1])
    weight = torch.zeros(len(labels), x.shape[1], requires_grad=True)
    bias = torch.zeros(len(labels), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + 1e-4 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    guess = ((tried[0] - middle) / spread @ weight.T + bias).argmax(-1)
    return round(100 * float((guess == targets(tried[1])).float().mean()), 2)
