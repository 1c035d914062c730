"""Attention over cached keys by position, registered under `POSITIONS`: for windows and soft caps in answering.

transformers' caches for sliding windows count columns, and drop the oldest; padding between a question and its answer
would push out tokens that the answer still sees. Here all keys stay, and a mask by positions decides which are seen.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from olivine.model.attending import attending
from olivine.model.attention import refuse_unknown
from olivine.model.capped_attention import capped_attention

#: The name to give `attn_implementation`; the model's forward then needs `cached_positions`.
POSITIONS = "olivine_positions"


class CachedPositions:
    """Visibility between the new and the cached tokens of one forward pass.

    Args:
        queries: `[sequences, new tokens]` int64, positions.
        mask: `[sequences, cached and new tokens]`, nonzero where a token is not padding; positions
            count real tokens.
    """

    def __init__(self, queries: Tensor, mask: Tensor) -> None:
        real = mask != 0
        self._real = real
        self._keys = real.long().cumsum(dim=1) - 1
        self._queries = queries
        self._masks: dict[int | None, Tensor] = {}

    def mask(self, window: int | None) -> Tensor:
        """Return `[sequences, 1, new tokens, all tokens]` bool under a window; None is none."""
        if window not in self._masks:
            distance = self._queries[:, :, None] - self._keys[:, None, :]
            seen = (distance >= 0) & self._real[:, None, :]
            if window is not None:
                seen &= distance < window
            # A padding query may see no key, which would give NaN and, through its values, spoil real tokens.
            self._masks[window] = (seen | ~seen.any(dim=-1, keepdim=True))[:, None]
        return self._masks[window]


def position_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cached_positions: CachedPositions,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend to keys by their positions.

    Args:
        query: `[sequences, heads, new tokens, head_dim]`, rotated already.
        key, value: `[sequences, key-value heads, all tokens, head_dim]`.
        attention_mask: must be None; `cached_positions` defines what is seen.
        sliding_window: how many tokens a query sees, itself included; None for all before it.
        softcap: scores become softcap * tanh(score / softcap); None for none.

    Returns:
        `[sequences, new tokens, heads, head_dim]`, and no weights.

    Raises:
        RunError: the module asks for what is not computed here.
    """
    assert attention_mask is None, "cached_positions defines what is seen"
    assert not dropout, "answers are not given in training mode"
    refuse_unknown(others)
    mask = cached_positions.mask(sliding_window)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if softcap is None:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    else:
        out = capped_attention(query, key, value, mask=mask, scaling=scaling, cap=softcap)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(POSITIONS, position_attention)


def by_position(language: Any) -> AbstractContextManager[None]:
    """Let a language model attend by position inside the block, and as before outside it."""
    return attending(language, POSITIONS)
