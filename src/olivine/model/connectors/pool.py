"""Gemma 3's projector (arXiv:2503.19786): patches averaged over squares, a norm, one linear layer.

Its language model's bidirectional attention within an image is not included.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from olivine.model.connectors.base import Connector, Shape

_EPSILON = 1e-6


class Pool(Connector):
    """The mean of `factor` x `factor` patches, root-mean-square normalised, through a linear layer without bias."""

    kind = "pool"
    tiny = {"factor": 2}  # noqa: RUF012

    def __init__(self, shape: Shape, options: Mapping[str, Any]) -> None:
        super().__init__(shape, options)
        self.norm = nn.RMSNorm(shape.width, eps=_EPSILON)
        self.linear = nn.Linear(shape.width, shape.hidden, bias=False)

    @classmethod
    def image_tokens(cls, shape: Shape, options: Mapping[str, Any]) -> int:
        """Return the patches divided by the square of the factor."""
        return shape.reduced(cls.kind, options["factor"]) ** 2

    def forward(self, features: Tensor) -> Tensor:
        """Average, normalise, project."""
        side = self.shape.side
        square = features.transpose(1, 2).unflatten(2, (side, side))
        pooled = F.avg_pool2d(square, self.options["factor"]).flatten(2).transpose(1, 2)
        projected: Tensor = self.linear(self.norm(pooled))
        return projected
