"""Attention for packed rows, registered with transformers' attention interface under `PACKED`.

Each example attends within itself only; linear layers never see padding, and no row-by-row mask is ever built. On CUDA
in half precision the row goes through `torch.nn.attention.varlen` as it lies; elsewhere through SDPA, group by group.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from olivine.data.visibility import AttentionGroup, Spans

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
    packed_spans: Spans | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over one packed row.

    Args:
        query: `[1, heads, tokens, head_dim]`, rotated already; `key` and `value` likewise with key-value heads.
        attention_mask: must be None; the groups say who sees whom.
        packed_groups: the row's groups, handed down from the model's forward; `packed_spans` likewise.

    Returns:
        `[1, tokens, heads, head_dim]`, and no weights.
    """
    assert attention_mask is None, "a packed row brings no mask"
    assert packed_groups, "forward was called without packed_groups"
    if packed_spans is not None and not dropout and takes_varlen(query):
        return varlen_attention(query, key, value, packed_spans, scaling), None
    return _grouped_attention(query, key, value, packed_groups, scaling, dropout), None


def _grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed_groups: Sequence[AttentionGroup],
    scaling: float | None,
    dropout: float,
) -> Tensor:
    heads, tokens, width = query.shape[1:]
    repeats = heads // key.shape[1]
    by_token = [state[0].transpose(0, 1) for state in (query, key, value)]  # [tokens, heads, head_dim]
    out = query.new_zeros(tokens, heads, width)
    for group in packed_groups:
        # [blocks, heads, most queries or keys, head_dim]
        q = _gathered(by_token[0], group.queries)
        k, v = (_gathered(state, group.keys) for state in by_token[1:])
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        attended = _attended(q, k, v, group.mask, scaling, dropout)
        places = group.queries[group.real]
        out = out.index_copy(0, places, attended.transpose(1, 2)[group.real].to(out.dtype))
    return out[None]


def _gathered(by_token: Tensor, places: Tensor) -> Tensor:
    """`[tokens, heads, head_dim]` at places `[blocks, length]`: `[blocks, heads, length, head_dim]`.

    Shared keys stand in many blocks. With several threads the gradient of `by_token[places]` adds them up in any order;
    that of `index_select` does so in the order of the places.
    """
    chosen = by_token.index_select(0, places.flatten())
    return chosen.view(*places.shape, *by_token.shape[1:]).transpose(1, 2)


def _attended(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, dropout: float
) -> Tensor:
    attend = functools.partial(
        F.scaled_dot_product_attention, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
    )
    if query.device.type != "cpu":
        return attend(query, key, value)
    # The CPU kernel's backward pass takes several times as long in bf16 as in fp32 (torch 2.13).
    with torch.autocast("cpu", enabled=False):
        return attend(query.float(), key.float(), value.float())


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Spans,
    scaling: float | None,
    kernel: Callable[..., Any] | None = None,
) -> Tensor:
    """The same attention without padding and without copies of queries; keys of a shared part are gathered once a part.

    Args:
        query, key, value: as for `packed_attention`.
        spans: the row's.
        scaling: the logits' multiplier.
        kernel: what computes it; None is torch's `varlen_attn`.

    Returns:
        `[1, tokens, heads, head_dim]`.
    """
    q, k, v = (state[0].transpose(0, 1) for state in (query, key, value))  # [tokens, heads, head_dim]
    if spans.gather is not None:
        k, v = k.index_select(0, spans.gather), v.index_select(0, spans.gather)
    run = kernel or _varlen_kernel()
    assert run is not None, "the caller has asked takes_varlen"
    grouped: dict[str, Any] = {}
    if k.shape[1] != q.shape[1]:
        if "enable_gqa" in inspect.signature(run).parameters:
            grouped = {"enable_gqa": True}
        else:
            repeats = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    out: Tensor = run(
        q,
        k,
        v,
        spans.queries,
        spans.keys,
        spans.longest_query,
        spans.longest_key,
        scale=scaling,
        window_size=(-1, 0),
        **grouped,
    )
    return out[None]


def takes_varlen(query: Tensor) -> bool:
    """Whether torch's kernel for sequences of different lengths runs here: CUDA from Ampere on, half precision."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and _varlen_kernel() is not None
    )


@functools.cache
def _varlen_kernel() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    # Before window_size it was called is_causal, and the kernel was another one.
    if "window_size" not in inspect.signature(varlen_attn).parameters:
        return None
    return varlen_attn


AttentionInterface.register(PACKED, packed_attention)


def compile_layers(layers: Sequence[nn.Module], device: torch.device) -> None:
    """Compile blocks in place, one by one, for rows of any length.

    Where attention goes group by group it is left as it is: their number changes from row to row, and each would be
    compiled anew.
    """
    if device.type != "cuda":
        AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))
    for layer in layers:
        layer.compile(dynamic=True)


@contextmanager
def packed(language_model: Any) -> Iterator[None]:
    """Let a language model attend by packed groups inside the block, and as before outside it."""
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        language_model.set_attn_implementation(before)
