"""Visibility in a packed sequence under a sliding window: masks by group, or block masks of the whole sequence.

Without a window the groups are sufficient (`data/visibility.py`); the attention itself is in `attention`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from olivine.data.visibility import AttentionGroup, Spans


class PackedMasks:
    """Masks of one packed sequence, each made once for all layers with the same window.

    Distances are between positions: a continuation's first token is next to the end of its shared part, wherever it is
    in the sequence.

    Args:
        positions: `[tokens]` int64, as `PackedSequence.positions`.
    """

    def __init__(self, positions: Tensor) -> None:
        self._positions = positions
        self._of_groups: dict[tuple[int, int], Tensor | None] = {}
        self._of_blocks: dict[int | None, Any] = {}

    def of_group(self, number: int, group: AttentionGroup, window: int | None) -> Tensor | None:
        """Return a group's mask, `[blocks, 1, queries, keys]` bool, under a window; None for plain causal attention.

        `number` is the index of the group in its packed sequence.
        """
        # Positions of a block's keys are consecutive or repeat: none is farther away than there are keys.
        if window is None or group.keys.shape[1] <= window:
            return group.mask
        if (number, window) not in self._of_groups:
            self._of_groups[number, window] = self._windowed(group, window)
        return self._of_groups[number, window]

    def _windowed(self, group: AttentionGroup, window: int) -> Tensor:
        queries, keys = self._positions[group.queries], self._positions[group.keys]
        near = (queries[:, None, :, None] - keys[:, None, None, :]) < window
        if group.mask is not None:
            return near & group.mask
        # Beyond a block's end, position 0 stands in for queries and keys: each sees itself, and none gives NaN.
        return near & torch.ones(near.shape[-2:], dtype=torch.bool, device=near.device).tril()

    def of_blocks(self, spans: Spans, window: int | None, make: Callable[..., Any]) -> Any:
        """Return the block mask of the whole sequence, created by `make` (`create_block_mask`)."""
        if window not in self._of_blocks:
            tokens = len(self._positions)
            self._of_blocks[window] = make(
                visible(spans, self._positions, window), None, None, tokens, tokens, device=self._positions.device
            )
        return self._of_blocks[window]


def visible(spans: Spans, positions: Tensor, window: int | None) -> Callable[..., Tensor]:
    """Return the function of (batch, head, query, key) that decides whether a token of a sequence sees another.

    Args:
        spans: the sequence's spans; one with more keys than queries continues the shared part before it.
        positions: `[tokens]` int64.
        window: how many tokens a query sees, itself included; None for all before it.
    """
    sizes = spans.queries.diff()
    continues = spans.keys.diff() > sizes
    part = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes, output_size=len(positions))
    example = (~continues).cumsum(0)[part]
    shared = ~continues[part]

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = (example[query] == example[key]) & (shared[key] | (part[query] == part[key]))
        seen = same & (key <= query)
        return seen if window is None else seen & (positions[query] - positions[key] < window)

    return sees
