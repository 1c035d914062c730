"""How many tokens the answering engine caches and runs at once: by free memory on a GPU, fixed on a CPU.

Budgets limit memory and change no answer.
"""

from typing import Any

import torch

from olivine.accelerators import free_bytes
from olivine.model.decoding_attention import head_width
from olivine.model.vlm import VisionLanguageModel

#: Tokens cached at once on a CPU.
CPU_BUDGET = 16_384
#: About eight of LLaVA's prompts. A CPU's allocator gets larger activations from the system, and returns them, at every
#: operation, which takes a tenth of the time for prompts that share nothing (docs/decisions.md).
CPU_PREFILL = 5_000
#: Limits on a GPU: the minimum is about seven of LLaVA's prompts; at the maximum a tower has a hundred images at once.
_FEWEST, _MOST = 4_096, 65_536
#: Fraction of the free memory; the rest is for image features, logits and fragmentation.
_SHARE = 0.5
#: A prompt's keys are stored as the shared prefix, expanded for its questions, and in the memory used by decoding.
_COPIES_OF_KEYS = 3


def budgets(vlm: VisionLanguageModel) -> tuple[int, int]:
    """Return (tokens in the cache at once, tokens run at once) for a model's device."""
    free = free_bytes(vlm.device)
    if free is None:
        return CPU_BUDGET, CPU_PREFILL
    first = next(vlm.language.parameters())
    per_token = bytes_per_token(vlm.language.config, first.dtype)
    tokens = max(_FEWEST, min(_MOST, int(_SHARE * free / per_token)))
    return tokens, tokens


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Return the bytes that a prompt token takes while it is run and answered: its keys and one layer's activations."""
    keys = 2 * config.num_hidden_layers * config.num_key_value_heads * head_width(config)
    # Live in a layer at once: gate, up, their product, the down projection's input; queries, keys, values, residuals.
    activations = 4 * config.intermediate_size + 10 * config.hidden_size
    return (_COPIES_OF_KEYS * keys + activations) * dtype.itemsize
