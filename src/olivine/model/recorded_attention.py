"""A language model run once over whole sequences, without a cache; with its attention weights kept where asked for.

Weights are `[sequences, heads, tokens, tokens]` in every layer: only methods that need them should ask. Answering, with
its cache, is in `caching`.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from olivine.model.attending import attending
from olivine.model.attention import refuse_unknown
from olivine.model.languages.traits import language_traits
from olivine.model.position_attention import CachedPositions, by_position

#: The name to give `attn_implementation`; the model's forward then needs `attention_record`.
RECORDED = "olivine_recorded"


@dataclass(slots=True)
class AttentionRecord:
    """What each layer's attention gave to whom.

    Attributes:
        rows: queries to keep, by position; None keeps all, and each layer's weights in the graph of the backward pass.
        weights: for each layer `[sequences, heads, kept queries, tokens]` fp32.
    """

    rows: tuple[int, ...] | None = None
    weights: list[Tensor] = field(default_factory=list)


def recorded_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention_record: AttentionRecord,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend causally over sequences without padding, and keep the weights.

    Args:
        query: `[sequences, heads, tokens, head_dim]`, rotated already; `key`, `value` the same, with key-value heads.
        attention_mask: must be None.
        attention_record: where the weights go.
        scaling: the scores' multiplier; None for 1 / sqrt(head_dim).
        sliding_window: how many tokens a query sees, itself included; None for all before it.
        softcap: scores become softcap * tanh(score / softcap); None for none.

    Returns:
        `[sequences, tokens, heads, head_dim]`, and no weights.

    Raises:
        RunError: the module asks for what is not computed here.
    """
    assert attention_mask is None, "sequences have no padding"
    assert not dropout, "explanations are not made in training mode"
    refuse_unknown(others)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    tokens = query.shape[2]
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    if sliding_window is not None:
        seen &= ~seen.tril(-sliding_window)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1, dtype=torch.float32)
    rows = attention_record.rows
    attention_record.weights.append(weights if rows is None else weights[:, :, list(rows)].detach())
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(RECORDED, recorded_attention)


def run_sequences(
    language: Any, embedded: Tensor, *, record: AttentionRecord | None = None, every_layer: bool = False
) -> Tensor:
    """Run a language model over sequences of one length, each seen whole; gradients flow.

    Args:
        language: the language model's backbone.
        embedded: `[sequences, tokens, hidden]`.
        record: keeps attention weights; None keeps none, and attention never materialises them.
        every_layer: return the hidden states behind each layer instead of the last ones.

    Returns:
        Hidden states behind the final norm, `[sequences, tokens, hidden]`; or, with `every_layer`,
        `[layers, sequences, tokens, hidden]`, each through the final norm.
    """
    plain = language_traits(language.config).plain
    options: dict[str, Any] = {}
    if record is not None:
        options["attention_record"] = record
    elif not plain:
        positions = torch.arange(embedded.shape[1], device=embedded.device)[None].expand(len(embedded), -1)
        options |= {
            "position_ids": positions,
            "cached_positions": CachedPositions(positions, torch.ones_like(positions)),
        }
    with attending(language, RECORDED) if record is not None else nullcontext() if plain else by_position(language):
        outputs = language(
            inputs_embeds=embedded, attention_mask=None, use_cache=False, output_hidden_states=every_layer, **options
        )
    last: Tensor = outputs.last_hidden_state
    if not every_layer:
        return last
    # transformers puts the last layer's states through the final norm already.
    return torch.stack([*(language.norm(states) for states in outputs.hidden_states[1:-1]), last])
