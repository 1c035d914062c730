"""Attention with softly capped scores (Gemma 2), which neither SDPA nor torch's varlen kernel computes.

Computed explicitly on CPUs and for single tokens; over packed sequences on a GPU through torch's flex_attention, whose
kernels never materialise the score matrix.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from olivine.data.visibility import Spans

#: The module in torch; imported lazily, since it loads much of torch's compiler.
_FLEX = "torch.nn.attention.flex_attention"


def capped_attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, scaling: float | None, cap: float
) -> Tensor:
    """Compute attention with scores cap * tanh(score / cap).

    Args:
        query, key, value: `[batch, heads, tokens, head_dim]`, with the same number of heads.
        mask: bool, True where a query sees a key, and at least one for every query; None for causal attention.
        scaling: the scores' multiplier before the cap; None for 1 / sqrt(head_dim).
        cap: the largest score.

    Returns:
        `[batch, heads, queries, head_dim]`.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-2, -1) * scale
    scores = cap * torch.tanh(scores / cap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


def why_not_flex(config: Any, device: torch.device) -> str | None:
    """Return why flex_attention is not used, in words; None if it is."""
    if device.type != "cuda":
        return f"flex_attention's kernels need CUDA, and this is {device.type}"
    if getattr(config, "attention_dropout", 0.0):
        return "flex_attention has no dropout"
    if find_spec(_FLEX) is None:
        return f"torch {torch.__version__} has no flex_attention"
    return None


def flex_attention_over_spans(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Spans,
    blocks: Callable[..., Any],
    scaling: float | None,
    window: int | None,
    cap: float,
) -> Tensor:
    """Compute attention over one whole packed sequence, through torch's flex_attention.

    Args:
        query: `[1, heads, tokens, head_dim]`; `key` and `value` as above with key-value heads.
        spans: the sequence's spans.
        blocks: the sequence's `PackedMasks.of_blocks`.
        scaling: the scores' multiplier before the cap.
        window: how many tokens a query sees, itself included; None for all before it.
        cap: the largest score.

    Returns:
        `[1, tokens, heads, head_dim]`.
    """
    attend, make = _flex(query.is_cuda)

    def capped(score: Tensor, *_position: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    out: Tensor = attend(
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        score_mod=capped,
        block_mask=blocks(spans, window, make),
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return out.transpose(1, 2)


@functools.cache
def _flex(compiled: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return torch's flex_attention and its mask builder; on a GPU it must be compiled to be a kernel."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not compiled:
        return flex_attention, create_block_mask
    return torch.compile(flex_attention, dynamic=True), create_block_mask
