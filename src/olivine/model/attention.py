"""Attention for packed rows, registered with transformers' attention interface under `PACKED`.

Each example attends within itself only; linear layers never see padding, and no row-by-row mask is ever built. On CUDA
in half precision the row goes through `torch.nn.attention.varlen` as it lies; elsewhere through SDPA, group by group.
Which of the two is decided once a run, by `choose_attention`; a row then brings what that one needs and nothing else.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from olivine.data.visibility import AttentionGroup, Spans

#: The name to give `attn_implementation`; the model's forward then needs `packed_groups` and `packed_spans` of the row.
PACKED = "olivine_packed"


def _find_kernel() -> tuple[Callable[..., Any] | None, bool]:
    """Return torch's kernel for sequences of different lengths, if there is one, and whether it groups heads itself."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, False
    parameters = inspect.signature(varlen_attn).parameters
    # Before window_size it was called is_causal, and the kernel was another one.
    return (varlen_attn if "window_size" in parameters else None), "enable_gqa" in parameters


#: Resolved here, since a question inside a compiled block would break its graph.
KERNEL, KERNEL_GROUPS_HEADS = _find_kernel()


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """Which attention packed rows take: the kernel without padding (`varlen`) or SDPA by groups; and why, in words."""

    varlen: bool
    why: str

    def __str__(self) -> str:
        name = "without padding (torch's varlen_attn)" if self.varlen else "by groups (SDPA)"
        return f"attention {name}: {self.why}"


def choose_attention(config: Any, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Return which attention a language model takes.

    Args:
        config: the language model's.
        device: where it runs.
        dtype: of its matrix products: autocast's where that is on, whatever the weights' own.
    """
    why_not = why_not_varlen(config, device, dtype)
    return AttentionChoice(why_not is None, why_not or f"{str(dtype).removeprefix('torch.')} on {device.type}")


def why_not_varlen(config: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why torch's kernel for sequences of different lengths cannot run, in words; None where it can."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if device.type != "cuda":
        return f"the kernel without padding needs CUDA, and this is {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the kernel without padding needs a GPU from Ampere on"
    if dtype not in (torch.bfloat16, torch.float16):
        return "the kernel without padding needs half precision (optimizer.precision: bf16)"
    if width > 256 or width % 8:
        return f"the kernel without padding takes heads of up to 256, a multiple of 8, and these are {width} wide"
    if getattr(config, "attention_dropout", 0.0):
        return "the kernel without padding has no dropout"
    if KERNEL is None:
        return f"torch {torch.__version__} has no kernel without padding"
    return None


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
        packed_groups: the row's groups, handed down from the model's forward; where there are none,
        packed_spans: the row's spans, and the kernel without padding is taken.

    Returns:
        `[1, tokens, heads, head_dim]`, and no weights.
    """
    assert attention_mask is None, "a packed row brings no mask"
    if packed_groups:
        return _grouped_attention(query, key, value, packed_groups, scaling, dropout), None
    assert packed_spans is not None, "forward was called with neither packed_groups nor packed_spans"
    return varlen_attention(query, key, value, packed_spans, scaling), None


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
        real = attended.transpose(1, 2).flatten(0, 1).index_select(0, group.kept)
        out = out.index_copy(0, group.token_positions, real.to(out.dtype))
    return out[None]


def _gathered(by_token: Tensor, token_positions: Tensor) -> Tensor:
    """`[tokens, heads, head_dim]` at places `[blocks, length]`: `[blocks, heads, length, head_dim]`.

    Shared keys stand in many blocks. With several threads the gradient of `by_token[places]` adds them up in any order;
    that of a lookup in a table gives each token to one thread, which adds in the order of the places.
    """
    found = F.embedding(token_positions, by_token.flatten(1))
    return found.view(*token_positions.shape, *by_token.shape[1:]).transpose(1, 2)


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
        query, key, value: as for `packed_attention`. Trained weights are fp32, and so under autocast are queries and
            keys, which the rotary embedding multiplied by fp32; the value is as its product left it, in half precision,
            and the others are cast to that.
        spans: the row's.
        scaling: the logits' multiplier.
        kernel: what computes it; None is torch's `varlen_attn`, `KERNEL`.

    Returns:
        `[1, tokens, heads, head_dim]`.
    """
    q, k, v = (state[0].transpose(0, 1).to(value.dtype) for state in (query, key, value))  # [tokens, heads, head_dim]
    if spans.gather is not None:
        k, v = k.index_select(0, spans.gather), v.index_select(0, spans.gather)
    run = KERNEL if kernel is None else kernel
    assert run is not None, "choose_attention was asked before"
    grouped: dict[str, Any] = {}
    if k.shape[1] != q.shape[1]:
        if KERNEL_GROUPS_HEADS or kernel is not None:
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


AttentionInterface.register(PACKED, packed_attention)


def compile_layers(layers: Sequence[nn.Module], *, varlen: bool) -> None:
    """Compile blocks in place, one by one, for rows of any length.

    With the kernel without padding a block is one graph. Where attention goes group by group it is left as it is: their
    number changes from row to row, and each would be compiled anew.
    """
    AttentionInterface.register(PACKED, packed_attention if varlen else torch.compiler.disable(packed_attention))
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
