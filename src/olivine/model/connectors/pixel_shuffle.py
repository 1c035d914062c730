"""Pixel shuffle, as Idefics3 (arXiv:2408.12637), SmolVLM and InternVL have it: neighbouring patches become one token.

Not the image-splitting that those models combine it with.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.activations import ACT2FN

from olivine.model.connectors.base import Connector, Shape
from olivine.model.connectors.mlp import run, stack


class PixelShuffle(Connector):
    """`factor` x `factor` patches concatenated by channel into one token, then `depth` linear layers."""

    kind = "pixel-shuffle"
    tiny = {"factor": 2, "depth": 1, "activation": "gelu"}  # noqa: RUF012

    def __init__(self, shape: Shape, options: Mapping[str, Any]) -> None:
        super().__init__(shape, options)
        self.layers = stack(shape.width * options["factor"] ** 2, shape.hidden, options["depth"])
        self.activation = ACT2FN[options["activation"]]

    @classmethod
    def image_tokens(cls, shape: Shape, options: Mapping[str, Any]) -> int:
        """Return the patches divided by the square of the factor."""
        return shape.reduced(cls.kind, options["factor"]) ** 2

    def forward(self, features: Tensor) -> Tensor:
        """Shuffle, then project."""
        return run(self.layers, self.activation, shuffled(features, self.shape.side, self.options["factor"]))


def shuffled(features: Tensor, side: int, factor: int) -> Tensor:
    """Rearrange `[images, side * side, width]` into `[images, (side / factor)**2, width * factor**2]`.

    In Idefics3's order: row by row within a token, as within the image.
    """
    images, _, width = features.shape
    left = side // factor
    blocks = features.reshape(images, left, factor, left, factor, width)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(images, left * left, factor * factor * width)
