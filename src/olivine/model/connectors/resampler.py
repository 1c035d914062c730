"""A resampler: learnt queries read an image's features in one cross-attention (Qwen-VL, arXiv:2308.12966).

Position embeddings of the features are learnt here; Qwen-VL has fixed sinusoids.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olivine.model.connectors.base import Connector, Shape

#: Width of an attention head, if the language model's width is a multiple of it.
_HEAD = 128
_START = 0.02


class Resampler(Connector):
    """`queries` learnt vectors that attend to the features; each becomes one image token."""

    kind = "resampler"
    tiny = {"queries": 3}  # noqa: RUF012

    def __init__(self, shape: Shape, options: Mapping[str, Any]) -> None:
        super().__init__(shape, options)
        hidden = shape.hidden
        self.heads = hidden // _HEAD if hidden % _HEAD == 0 else 1
        self.queries = nn.Parameter(torch.zeros(options["queries"], hidden))
        self.positions = nn.Parameter(torch.zeros(shape.tokens, hidden))
        self.enter = nn.Linear(shape.width, hidden, bias=False)
        self.norm_features, self.norm_queries = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.q, self.k, self.v = (nn.Linear(hidden, hidden) for _ in range(3))
        self.out = nn.Linear(hidden, hidden)
        self.norm_out = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, hidden)

    @classmethod
    def image_tokens(cls, shape: Shape, options: Mapping[str, Any]) -> int:  # noqa: ARG003
        """Return the number of queries."""
        count: int = options["queries"]
        return count

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Draw queries and positions besides the linear layers."""
        super().start(generator)
        for weight in (self.queries, self.positions):
            weight.normal_(0.0, _START, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """Attend from the queries to the features."""
        seen = self.norm_features(self.enter(features))
        queries = self.norm_queries(self.queries).expand(len(features), -1, -1)
        q, k, v = (
            layer(values).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, values in ((self.q, queries), (self.k, seen + self.positions), (self.v, seen))
        )
        gathered = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        projected: Tensor = self.project(self.norm_out(self.out(gathered)))
        return projected
