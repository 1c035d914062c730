"""Attention for packed sequences, registered with transformers' attention interface under `PACKED`.

Each example attends within itself only; linear layers never see padding, and no mask per sequence is ever built. On
CUDA in half precision the whole sequence goes through `torch.nn.attention.varlen`; elsewhere through SDPA, group
by group. Which of the two is decided once a run, by `choose_attention`; a sequence then brings what that one needs and
nothing else.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from olivine.data.visibility import AttentionGroup, Spans
from olivine.errors import RunError
from olivine.model.attending import attending
from olivine.model.capped_attention import capped_attention, flex_attention_over_spans, why_not_flex
from olivine.model.packed_masks import PackedMasks

#: The name to give `attn_implementation`; the model's forward then needs `packed_groups` and `packed_spans` of the
#: sequence.
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


#: Resolved here, since a check inside a compiled block would break its graph.
KERNEL, KERNEL_GROUPS_HEADS = _find_kernel()


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """Which attention packed sequences take, and why, in words.

    The kernel without padding (`varlen`), torch's flex_attention over the whole sequence (`flex`), or SDPA by groups.
    """

    varlen: bool
    why: str
    flex: bool = False

    @property
    def by_spans(self) -> bool:
        """Whether a packed sequence carries its spans only, and no groups."""
        return self.varlen or self.flex

    def __str__(self) -> str:
        whole = "without padding (torch's varlen_attn)" if self.varlen else "by blocks (torch's flex_attention)"
        return f"attention {whole if self.by_spans else 'by groups (SDPA)'}: {self.why}"


def choose_attention(config: Any, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Return which attention a language model takes.

    Args:
        config: the language model's.
        device: where it runs.
        dtype: of its matrix products: autocast's if that is on, else the weights'.
    """
    if getattr(config, "attn_logit_softcapping", None) is not None:
        why_not_flexed = why_not_flex(config, device)
        why = "scores are softly capped" + (f", and {why_not_flexed}" if why_not_flexed else "")
        return AttentionChoice(False, why, flex=why_not_flexed is None)
    why_not = why_not_varlen(config, device, dtype)
    return AttentionChoice(why_not is None, why_not or f"{str(dtype).removeprefix('torch.')} on {device.type}")


def why_not_varlen(config: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why torch's kernel for sequences of different lengths cannot run, in words; None if it can."""
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
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed_groups: Sequence[AttentionGroup] = (),
    packed_spans: Spans | None = None,
    packed_masks: PackedMasks | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over one packed sequence.

    Args:
        query: `[1, heads, tokens, head_dim]`, rotated already; `key` and `value` the same, with key-value heads.
        attention_mask: must be None; the groups define who sees whom.
        sliding_window: how many tokens a query sees, itself included; None for all before it.
        softcap: scores become softcap * tanh(score / softcap); None for none.
        packed_groups: the sequence's groups, handed down from the model's forward; where there are none,
        packed_spans: the sequence's spans, and the kernel without padding is taken (with a soft cap, flex_attention).
        packed_masks: the sequence's, for windows in groups and for flex_attention.

    Returns:
        `[1, tokens, heads, head_dim]`, and no weights.

    Raises:
        RunError: the module asks for what is not computed here (attention sinks, say).
    """
    assert attention_mask is None, "a packed sequence brings no mask"
    refuse_unknown(others)
    if packed_groups:
        how = _How(scaling, dropout, sliding_window, softcap)
        return _grouped_attention(query, key, value, packed_groups, packed_masks, how), None
    assert packed_spans is not None, "forward was called with neither packed_groups nor packed_spans"
    if softcap is None:
        return varlen_attention(query, key, value, packed_spans, scaling, window=sliding_window), None
    assert packed_masks is not None, "a soft cap over spans needs packed_masks"
    _refuse_dropout(dropout)
    blocks = packed_masks.of_blocks
    return flex_attention_over_spans(query, key, value, packed_spans, blocks, scaling, sliding_window, softcap), None


#: What modules pass to every attention function, and none needs.
_HARMLESS = frozenset(
    {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict", "is_causal",
     "position_embeddings", "past_key_values", "cache", "cache_position", "layer_idx", "num_items_in_batch"}
)  # fmt: skip


def refuse_unknown(options: dict[str, Any]) -> None:
    """Refuse attention options that none of these functions computes: ignoring them would be silently wrong.

    Raises:
        RunError: an unknown option is given.
    """
    for name, value in options.items():
        if value is not None and name not in _HARMLESS:
            raise RunError(f"the language model's attention asks for {name}, which is not supported.")


@dataclass(frozen=True, slots=True)
class _How:
    """Scale, dropout, window and soft cap of one layer's attention."""

    scaling: float | None
    dropout: float
    window: int | None
    cap: float | None


def _refuse_dropout(dropout: float) -> None:
    if dropout:
        raise RunError("attention_dropout is not supported together with a soft cap. Set it to 0.")


def _grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed_groups: Sequence[AttentionGroup],
    masks: PackedMasks | None,
    how: _How,
) -> Tensor:
    heads, tokens, width = query.shape[1:]
    repeats = heads // key.shape[1]
    by_token = [state[0].transpose(0, 1) for state in (query, key, value)]  # [tokens, heads, head_dim]
    out = query.new_zeros(tokens, heads, width)
    for number, group in enumerate(packed_groups):
        # [blocks, heads, most queries or keys, head_dim]
        q = _gathered(by_token[0], group.queries)
        k, v = (_gathered(state, group.keys) for state in by_token[1:])
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        mask = group.mask
        if how.window is not None:
            assert masks is not None, "a window over groups needs packed_masks"
            mask = masks.of_group(number, group, how.window)
        attended = _attended(q, k, v, mask, how)
        real = attended.transpose(1, 2).flatten(0, 1).index_select(0, group.kept)
        out = out.index_copy(0, group.token_positions, real.to(out.dtype))
    return out[None]


def _gathered(by_token: Tensor, token_positions: Tensor) -> Tensor:
    """Return `[tokens, heads, head_dim]` at positions `[blocks, length]` as `[blocks, heads, length, head_dim]`.

    Shared keys occur in many blocks. With several threads the gradient of `by_token[positions]` adds them in any order;
    that of an embedding lookup gives each token to one thread, which adds in the order of the positions.
    """
    found = F.embedding(token_positions, by_token.flatten(1))
    return found.view(*token_positions.shape, *by_token.shape[1:]).transpose(1, 2)


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, how: _How) -> Tensor:
    attend: Callable[..., Tensor]
    if how.cap is None:
        attend = functools.partial(
            F.scaled_dot_product_attention,
            attn_mask=mask,
            dropout_p=how.dropout,
            is_causal=mask is None,
            scale=how.scaling,
        )
    else:
        _refuse_dropout(how.dropout)
        attend = functools.partial(capped_attention, mask=mask, scaling=how.scaling, cap=how.cap)
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
    *,
    window: int | None = None,
) -> Tensor:
    """Return the same attention without padding or copies of queries; keys of a shared part are gathered once per part.

    Args:
        query, key, value: as for `packed_attention`. With fp32 weights under autocast, queries and keys are fp32,
        because
            the rotary embedding multiplies them by fp32; the value has its product's half precision, and the others are
            cast to that.
        spans: the sequence's.
        scaling: the logits' multiplier.
        kernel: the function that computes it; None is torch's `varlen_attn`, `KERNEL`.
        window: how many tokens a query sees, itself included: a span's keys are in the order of their positions,
            without gaps, so that distances between indices are distances between positions.

    Returns:
        `[1, tokens, heads, head_dim]`.
    """
    q, k, v = (state[0].transpose(0, 1).to(value.dtype) for state in (query, key, value))  # [tokens, heads, head_dim]
    if spans.gather is not None:
        k, v = k.index_select(0, spans.gather), v.index_select(0, spans.gather)
    run = KERNEL if kernel is None else kernel
    assert run is not None, "choose_attention was called before"
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
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    return out[None]


AttentionInterface.register(PACKED, packed_attention)


def compile_layers(layers: Sequence[nn.Module], *, varlen: bool) -> None:
    """Compile blocks in place, one by one, for sequences of any length.

    With the kernel without padding a block is one graph. Where attention goes group by group it is not compiled: the
    number of groups differs between sequences, and each would be compiled again.
    """
    AttentionInterface.register(PACKED, packed_attention if varlen else torch.compiler.disable(packed_attention))
    for layer in layers:
        layer.compile(dynamic=True)


def packed(language_model: Any) -> AbstractContextManager[None]:
    """Let a language model attend by packed groups inside the block, and as before outside it."""
    return attending(language_model, PACKED)
