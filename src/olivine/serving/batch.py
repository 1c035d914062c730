"""Answers written together: sequences join when they come and leave when they end, one token of each at a time.

Which requests join is decided in `worker`; how a token is chosen in `sequence`.
"""

from collections.abc import Callable, Sequence

import torch

from olivine.evaluation.decoding import Prompts, forward
from olivine.model.caching import cache_from, keys_and_values
from olivine.model.vlm import VisionLanguageModel
from olivine.serving.prefill import joined
from olivine.serving.sequence import AnswerSequence


class RunningBatch:
    """The answers of one model that are being written.

    Args:
        vlm: the model, inside `by_position` if its attention is not plain.
    """

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm
        self._prompts: Prompts | None = None
        self.sequences: list[AnswerSequence] = []

    @property
    def longest(self) -> int:
        """The most tokens that any of the answers will have taken at its end, prompt included; 0 without answers."""
        if self._prompts is None:
            return 0
        left = (one.sampling.max_tokens - len(one.tokens) for one in self.sequences)
        return max(length + more for length, more in zip(self._prompts.lengths.tolist(), left, strict=True))

    def join(self, prompts: Prompts, owners: Sequence[int], sequences: Sequence[AnswerSequence]) -> None:
        """Add answers behind prompts that have been run; `owners` has each answer's row among the prompts."""
        if list(owners) != list(range(len(prompts.last))):
            prompts = selected(prompts, owners)
        self._prompts = prompts if self._prompts is None else joined([self._prompts, prompts])
        self.sequences += sequences

    def step(self) -> int:
        """Choose the next token of every answer; return how many were chosen.

        Each answer tells its listener what it wrote; those that end leave the batch.
        """
        assert self._prompts is not None, "a batch without answers has no next token"
        logits = self._vlm.logits(self._prompts.last).float()
        greedy = logits.argmax(dim=-1).tolist()
        going, tokens = [], []
        for row, sequence in enumerate(self.sequences):
            token = sequence.choose(logits[row]) if sequence.sampling.temperature > 0 else greedy[row]
            if sequence.accept(token, logits[row]):
                going.append(row)
                tokens.append(token)
        count = len(self.sequences)
        self._keep(going)
        if self._prompts is not None:
            self._run(tokens)
        return count

    def drop(self, unwanted: Callable[[AnswerSequence], bool]) -> None:
        """Remove answers that nobody waits for."""
        keep = [row for row, sequence in enumerate(self.sequences) if not unwanted(sequence)]
        self._keep(keep)

    def clear(self) -> None:
        """Remove all answers."""
        self._keep([])

    def _keep(self, rows: Sequence[int]) -> None:
        if len(rows) == len(self.sequences):
            return
        self.sequences = [self.sequences[row] for row in rows]
        if not rows:
            self._prompts = None
        elif self._prompts is not None:
            self._prompts = selected(self._prompts, rows)

    def _run(self, tokens: Sequence[int]) -> None:
        prompts = self._prompts
        assert prompts is not None
        ids = torch.tensor(tokens, device=prompts.last.device)[:, None]
        mask = torch.cat([prompts.mask, prompts.mask.new_ones(len(tokens), 1)], dim=1)
        hidden = forward(self._vlm, ids, mask, prompts.lengths[:, None], prompts.cache)
        self._prompts = Prompts(hidden[:, -1], prompts.cache, mask, prompts.lengths + 1)


def selected(prompts: Prompts, rows: Sequence[int]) -> Prompts:
    """Return some of the sequences, each as often as it is named."""
    index = torch.tensor(list(rows), device=prompts.last.device)
    layers = [(keys[index], values[index]) for keys, values in keys_and_values(prompts.cache)]
    return Prompts(prompts.last[index], cache_from(layers), prompts.mask[index], prompts.lengths[index])
