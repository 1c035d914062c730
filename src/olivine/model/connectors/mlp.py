"""The MLP of LLaVA-1.5 (arXiv:2310.03744) in any depth: linear layers with activations between, token by token.

Depths 1 and 2 are represented by transformers' own projector: `llava`.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from olivine.model.connectors.base import Connector, Shape


class Mlp(Connector):
    """`depth` linear layers with `activation` between them, applied token by token."""

    kind = "mlp"
    tiny = {"depth": 3, "activation": "gelu"}  # noqa: RUF012

    def __init__(self, shape: Shape, options: Mapping[str, Any]) -> None:
        super().__init__(shape, options)
        self.layers = stack(shape.width, shape.hidden, options["depth"])
        self.activation = ACT2FN[options["activation"]]

    @classmethod
    def image_tokens(cls, shape: Shape, options: Mapping[str, Any]) -> int:  # noqa: ARG003
        """Return the number of input tokens."""
        return shape.tokens

    def forward(self, features: Tensor) -> Tensor:
        """Project features token by token."""
        return run(self.layers, self.activation, features)


def stack(width: int, hidden: int, depth: int) -> nn.ModuleList:
    """Return `depth` linear layers, the first from `width`, all to `hidden`."""
    return nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([width, *[hidden] * depth]))


def run(layers: nn.ModuleList, activation: nn.Module, features: Tensor) -> Tensor:
    """Apply linear layers with an activation between, none after the last."""
    for layer in layers[:-1]:
        features = activation(layer(features))
    projected: Tensor = layers[-1](features)
    return projected
