"""Attention for packed rows, registered with transformers' attention interface under `PACKED`.

Each example attends within itself only; linear layers never see padding, and no row-by-row mask is ever built.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from olivine.data.packing import AttentionGroup

#: The name to give `attn_implementation`; the model's forward then needs `packed_groups=row.groups`.
PACKED = "olivine_packed"


def packed_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_groups: Sequence[AttentionGroup] = (),
    **_: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over one packed row.

    Args:
        query: `[1, heads, tokens, head_dim]`, rotated already; `key` and `value` likewise with key-value heads.
        attention_mask: must be None; the groups say who sees whom.
        packed_groups: the row's groups, handed down from the model's forward.

    Returns:
        `[1, tokens, heads, head_dim]`, and no weights.
    """
    assert attention_mask is None, "a packed row brings no mask"
    assert packed_groups, "forward was called without packed_groups"
    heads, tokens, width = query.shape[1:]
    repeats = heads // key.shape[1]
    by_token = [state[0].transpose(0, 1) for state in (query, key, value)]  # [tokens, heads, head_dim]
    out = query.new_zeros(tokens, heads, width)
    for group in packed_groups:
        q, k, v = (state[group.gather].transpose(1, 2) for state in by_token)  # [examples, heads, longest, head_dim]
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=group.mask, dropout_p=dropout, is_causal=group.mask is None, scale=scaling
        )
        places = group.gather[group.real]
        out = out.index_copy(0, places, attended.transpose(1, 2)[group.real].to(out.dtype))
    return out[None], None


AttentionInterface.register(PACKED, packed_attention)


@contextmanager
def packed(language_model: Any) -> Iterator[None]:
    """Let a language model attend by packed groups inside the block, and as before outside it."""
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        language_model.set_attn_implementation(before)
