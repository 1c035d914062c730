"""Running a language model with a cache of keys and values, under any supported version of transformers.

transformers 5.24 renamed `past_key_values` to `cache`, and drops the old name in 5.40.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache, LlamaModel

from olivine.model.position_attention import CachedPositions

_PARAMETERS = inspect.signature(inspect.unwrap(LlamaModel.forward)).parameters
#: The name of the cache argument of a model's forward.
CACHE = "cache" if "cache" in _PARAMETERS else "past_key_values"


def run_cached(
    language: Any, embedded: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None, cache: Any = None
) -> tuple[Tensor, Any]:
    """Run tokens after those in a cache, which then contains them too.

    Args:
        language: the language model's backbone.
        embedded: `[sequences, tokens, hidden]`.
        mask: `[sequences, cached and new tokens]`, nonzero where a token is not padding; None if padding is at the end.
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
    """Do as `run_cached` inside `by_position(language)`: every layer keeps all keys, and sees them by position."""
    outputs = language(
        inputs_embeds=embedded,
        attention_mask=None,
        position_ids=positions,
        use_cache=True,
        cached_positions=CachedPositions(positions, mask),
        # Created without the configuration: with it, sliding-window layers would drop keys by column.
        **{CACHE: DynamicCache() if cache is None else cache},
    )
    return outputs.last_hidden_state, getattr(outputs, CACHE)


def keys_and_values(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Return each layer's keys and values, `[sequences, heads, tokens, head_dim]`, in a cache of full attention."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def cache_from(layers: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """Return a cache that holds these keys and values, one pair for each layer, as `keys_and_values` returns them."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache
