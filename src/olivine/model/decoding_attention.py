"""Attention of one new token per sequence over keys in memory of fixed size, registered under `DECODING`.

Nothing in it depends on a value that is on the device: no wait, and the same operations for every token, which a CUDA
graph can capture. How prompts get there and what is done with the tokens is in `evaluation.static_decoding`.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from olivine.model.attending import attending
from olivine.model.attention import refuse_unknown
from olivine.model.capped_attention import capped_attention
from olivine.model.languages.traits import language_traits

#: The name to give `attn_implementation`; the model's forward then needs `fixed_keys`.
DECODING = "olivine_decoding"


class FixedKeys:
    """Keys and values of sequences of up to `capacity` tokens, by layer.

    Attributes:
        keys, values: for each layer `[sequences, key-value heads, capacity, head_dim]`.
        visible: `[sequences, 1, 1, capacity]` bool, what a new token sees without a window.
        positions: `[sequences, capacity]` int64, the keys'.
        column: `[1]` int64, where the next token's key goes, in all sequences.
    """

    def __init__(self, config: Any, sequences: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        heads, width = config.num_key_value_heads, head_width(config)
        shape = (config.num_hidden_layers, sequences, heads, capacity, width)
        self.keys = list(torch.zeros(shape, dtype=dtype, device=device))
        self.values = list(torch.zeros(shape, dtype=dtype, device=device))
        self.visible = torch.zeros(sequences, 1, 1, capacity, dtype=torch.bool, device=device)
        self.column = torch.zeros(1, dtype=torch.int64, device=device)
        self.positions = torch.zeros(sequences, capacity, dtype=torch.int64, device=device)
        # One per window, refilled for each token: a CUDA graph holds their addresses.
        windows = {window for window in language_traits(config).windows if window is not None}
        self._within = {window: torch.zeros_like(self.visible) for window in windows}
        self._one = torch.ones(sequences, 1, 1, 1, dtype=torch.bool, device=device)

    def fill(self, cache: Any, mask: Tensor) -> None:
        """Take the prompts' keys and values from a transformers cache.

        Args:
            cache: what the model returned for the prompts; at most as many sequences as this object has.
            mask: `[prompts, tokens]`, nonzero where a token is not padding.
        """
        prompts, tokens = mask.shape
        for number, layer in enumerate(cache.layers):
            self.keys[number][:prompts, :, :tokens].copy_(layer.keys)
            self.values[number][:prompts, :, :tokens].copy_(layer.values)
        self.clear(tokens)
        self.visible[:prompts, 0, 0, :tokens].copy_(mask != 0)
        self.positions[:prompts, :tokens].copy_((mask != 0).long().cumsum(dim=1) - 1)

    def clear(self, column: int = 0) -> None:
        """Make only each sequence's first key visible (a query that sees none gives NaN), and continue at a column."""
        self.visible.zero_()
        self.visible[..., 0] = True
        self.positions.zero_()
        self.column.fill_(column)

    def show_next(self, position: Tensor) -> None:
        """Let every sequence see the column that its next token, of position `[sequences, 1]`, is put in."""
        self.visible.index_copy_(3, self.column, self._one)
        if self._within:
            self.positions.index_copy_(1, self.column, position)
            distance = (position - self.positions)[:, None, None, :]
            for window, within in self._within.items():
                torch.logical_and(self.visible, distance < window, out=within)

    def seen(self, window: int | None) -> Tensor:
        """Return `[sequences, 1, 1, capacity]` bool, what a new token sees under a window; None is none."""
        return self.visible if window is None else self._within[window]


def decoding_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    fixed_keys: FixedKeys,
    **others: Any,
) -> tuple[Tensor, None]:
    """Store one token's key and value, and attend to all that are visible.

    Args:
        query: `[sequences, heads, 1, head_dim]`, rotated already; `key` and `value` the same, with key-value heads.
        attention_mask: must be None; `fixed_keys` defines what is visible.
        sliding_window: how many tokens a query sees, itself included; None for all before it.
        softcap: scores become softcap * tanh(score / softcap); None for none.

    Returns:
        `[sequences, 1, heads, head_dim]`, and no weights.

    Raises:
        RunError: the module asks for what is not computed here.
    """
    assert not dropout, "answers are not given in training mode"
    refuse_unknown(others)
    assert attention_mask is None, "fixed_keys defines what is visible"
    sequences, heads, tokens, width = query.shape
    assert tokens == 1, "one new token per sequence"
    layer: int = module.layer_idx  # type: ignore[assignment]  # transformers numbers its attention modules
    keys = fixed_keys.keys[layer].index_copy_(2, fixed_keys.column, key.to(fixed_keys.keys[layer].dtype))
    values = fixed_keys.values[layer].index_copy_(2, fixed_keys.column, value.to(fixed_keys.values[layer].dtype))
    # The heads that share a key use the query dimension, which is free with one token: no key is repeated.
    grouped = query.reshape(sequences, key.shape[1], heads // key.shape[1], width).to(keys.dtype)
    mask = fixed_keys.seen(sliding_window)
    if softcap is None:
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
    else:
        out = capped_attention(grouped, keys, values, mask=mask, scaling=scaling, cap=softcap)
    return out.reshape(sequences, 1, heads, width), None


AttentionInterface.register(DECODING, decoding_attention)


def decoding(language: Any) -> AbstractContextManager[None]:
    """Let a language model decode over fixed keys inside the block, and as before outside it."""
    return attending(language, DECODING)


def head_width(config: Any) -> int:
    """Return a language model's width of one head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
