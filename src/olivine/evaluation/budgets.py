"""How many tokens the answering engine holds and runs at once: by the free memory of a GPU, fixed on a CPU.

Budgets bound memory and change no answer.
"""

from typing import Any

import torch

from olivine.accelerators import free_bytes
from olivine.model.decoding_attention import head_width
from olivine.model.vlm import VisionLanguageModel

#: Tokens held at once on a CPU.
CPU_BUDGET = 16_384
#: About eight of LLaVA's prompts. Larger activations are fetched from and given back to the system at every operation
#: by a CPU's allocator: a tenth of the time of prompts that share nothing (docs/decisions.md).
CPU_PREFILL = 5_000
#: On a GPU, never fewer (about seven of LLaVA's prompts) nor more (a tower then has a hundred images at once).
_FEWEST, _MOST = 4_096, 65_536
#: Of what is free; the rest is for image features, logits, and what the allocator cannot find in one piece.
_SHARE = 0.5
#: A prompt's keys are held as the prefix, spread over its questions, and in the memory that decoding uses.
_COPIES_OF_KEYS = 3


def budgets(vlm: VisionLanguageModel) -> tuple[int, int]:
    """Return (tokens held in the cache at once, tokens run at once) for where a model is."""
    free = free_bytes(vlm.device)
    if free is None:
        return CPU_BUDGET, CPU_PREFILL
    first = next(vlm.language.parameters())
    per_token = bytes_per_token(vlm.language.config, first.dtype)
    held = max(_FEWEST, min(_MOST, int(_SHARE * free / per_token)))
    return held, held


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Return what a token of a prompt takes while it is run and answered: its keys and one layer's activations."""
    keys = 2 * config.num_hidden_layers * config.num_key_value_heads * head_width(config)
    # In a layer at once: gate, up, their product and its input to the next product; queries, keys, values, residuals.
    activations = 4 * config.intermediate_size + 10 * config.hidden_size
    return (_COPIES_OF_KEYS * keys + activations) * dtype.itemsize
