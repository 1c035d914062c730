"""The interface of a kind of connector.

The kinds are in the other files of this package, one each; `registry` lists them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from olivine.errors import RequestError


@dataclass(frozen=True, slots=True)
class Shape:
    """The shapes that a connector connects.

    Attributes:
        side: patches along a side of the tower's grid.
        extra: other tokens before them (registers).
        width: of the tower's features.
        hidden: of the language model.
    """

    side: int
    extra: int
    width: int
    hidden: int

    @property
    def tokens(self) -> int:
        """The number of input tokens per image."""
        return self.side * self.side + self.extra

    def reduced(self, kind: str, factor: int) -> int:
        """Return the side of the remaining grid if `factor` x `factor` patches become one token.

        Raises:
            RequestError: there are tokens outside the grid, or the factor does not divide it.
        """
        if self.extra:
            raise RequestError(
                f"model.connector.kind: {kind!r} joins neighbouring patches, but {self.extra} register tokens stand "
                "before them. Set model.vision.registers: drop."
            )
        if self.side % factor:
            raise RequestError(
                f"model.connector.factor: {factor} does not divide the tower's grid of {self.side}x{self.side} patches."
            )
        return self.side // factor


class Connector(nn.Module):
    """A connector: `[images, tokens, width]` to `[images, image tokens, hidden]`.

    Derive from it and offer the class under the entry-point group `olivine.connectors`, named by its `kind`. Options
    are plain values, as a recipe has them and the saved configuration keeps them.

    Attributes:
        kind: its name in a recipe.
        tiny: options for conformance tests, on a grid of 2 x 2 patches.
    """

    kind: ClassVar[str]
    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, shape: Shape, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.shape, self.options = shape, dict(options)

    @classmethod
    def image_tokens(cls, shape: Shape, options: Mapping[str, Any]) -> int:
        """Return how many tokens an image takes in the language model.

        Raises:
            RequestError: an option that the kind does not have, or a shape that it does not support.
        """
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Project features."""
        raise NotImplementedError

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Initialise every weight at random: linear layers as in PyTorch; derived classes add theirs."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                start_linear(layer, generator)
            elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
                layer.reset_parameters()


@torch.no_grad()
def start_linear(layer: nn.Linear, generator: torch.Generator) -> None:
    """Draw a linear layer's weights as PyTorch does (and LLaVA for its projector)."""
    bound = layer.in_features**-0.5
    layer.weight.uniform_(-bound, bound, generator=generator)
    if layer.bias is not None:
        layer.bias.uniform_(-bound, bound, generator=generator)
