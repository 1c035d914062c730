"""A language model run with a cache of keys and values, whatever the installed transformers calls it.

transformers 5.24 renamed `past_key_values` to `cache`, and drops the old name in 5.40.
"""

import inspect
from typing import Any

from torch import Tensor
from transformers import DynamicCache, LlamaModel

from olivine.model.position_attention import CachedPositions

_PARAMETERS = inspect.signature(inspect.unwrap(LlamaModel.forward)).parameters
#: What a model's forward calls the cache that it takes.
CACHE = "cache" if "cache" in _PARAMETERS else "past_key_values"


def run_cached(
    language: Any, embedded: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None, cache: Any = None
) -> tuple[Tensor, Any]:
    """Run tokens behind what is in a cache, which then holds them too.

    Args:
        language: the trunk.
        embedded: `[sequences, tokens, hidden]`.
        mask: `[sequences, cached and new tokens]`, not 0 where a token is no padding; None where padding is behind.
        positions: `[sequences, tokens]`; None counts from the cache's end.
        cache: what an earlier call returned; None starts one.

    Returns:
        Hidden states `[sequences, tokens, hidden]` and the cache.
    """
    options = {"attention_mask": mask, "position_ids": positions, CACHE: cache}
    outputs = language(
        inputs_embeds=embedded, use_cache=True, **{name: value for name, value in options.items() if value is not None}
    )
    return outputs.last_hidden_state, getattr(outputs, CACHE)


def run_by_position(
    language: Any, embedded: Tensor, mask: Tensor, positions: Tensor, cache: Any = None
) -> tuple[Tensor, Any]:
    """`run_cached` inside `by_position(language)`: every layer keeps all keys, and sees them by their positions."""
    outputs = language(
        inputs_embeds=embedded,
        attention_mask=None,
        position_ids=positions,
        use_cache=True,
        cached_positions=CachedPositions(positions, mask),
        # Made without the configuration: with it, layers that slide would drop keys by their columns.
        **{CACHE: DynamicCache() if cache is None else cache},
    )
    return outputs.last_hidden_state, getattr(outputs, CACHE)
