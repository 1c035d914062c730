"""Greedy tokens behind prompts that have been run: the way for a CPU, where finished sequences leave at once.

The way for a GPU, which waits for nothing, is in `static_decoding`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from olivine.model.caching import run_by_position, run_cached
from olivine.model.vlm import VisionLanguageModel


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts that have been run, one a sequence.

    `last` is `[sequences, hidden]` at their last tokens, `mask` `[sequences, cached tokens]` what in the cache is no
    padding, `lengths` `[sequences]` how many tokens that is: the next one's position.
    """

    last: Tensor
    cache: Any
    mask: Tensor
    lengths: Tensor


class Decoder(Protocol):
    """Greedy tokens behind each prompt, without stop tokens."""

    def __call__(self, prompts: Prompts) -> list[list[int]]:
        """Return each prompt's tokens; its cache is used up."""


class ShrinkingDecoder:
    """Finished sequences leave the batch at once, so that nothing is computed for them; asks after every token.

    Padding lies between question and answer, hidden by the mask; positions count real tokens alone.
    """

    def __init__(self, vlm: VisionLanguageModel, stop_ids: Sequence[int], max_new_tokens: int) -> None:
        self._vlm = vlm
        self._stop_ids = torch.tensor(stop_ids, device=vlm.device)
        self._max_new_tokens = max_new_tokens

    def __call__(self, prompts: Prompts) -> list[list[int]]:
        """Return each prompt's tokens."""
        last, cache, mask, next_position = prompts.last, prompts.cache, prompts.mask, prompts.lengths
        answers: list[list[int]] = [[] for _ in last]
        active = torch.arange(len(last), device=last.device)
        for step in range(self._max_new_tokens):
            token = self._vlm.logits(last).float().argmax(dim=-1)
            going = ~torch.isin(token, self._stop_ids)
            for row, selected in zip(active[going].tolist(), token[going].tolist(), strict=True):
                answers[row].append(selected)
            if not going.any() or step + 1 == self._max_new_tokens:
                break
            if not going.all():
                keep = going.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                active, token, mask, next_position = active[keep], token[keep], mask[keep], next_position[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            last = forward(self._vlm, token[:, None], mask, next_position[:, None], cache)[:, -1]
            next_position = next_position + 1
        return answers


def forward(vlm: VisionLanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Run tokens behind what is in a cache, which then holds them too; hidden states `[sequences, tokens, hidden]`.

    A model with windows or soft caps must be inside `by_position`.
    """
    run = run_cached if vlm.traits.plain else run_by_position
    return run(vlm.language, vlm.embed(ids, None), mask=mask, positions=positions, cache=cache)[0]
