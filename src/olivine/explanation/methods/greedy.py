"""The greedy search, the bound for deletion: always removes the token whose loss costs most. Slow."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work


class Greedy(Method):
    """Tokens in the order in which the greedy search removes them: the first gets the highest score, below 1."""

    name: ClassVar[str] = "greedy"
    about: ClassVar[str] = "bound for deletion: removes the token whose loss costs most, again and again"
    signed: ClassVar[bool] = False

    def token_scores(self, case: Case) -> Tensor:
        """Return the ranks."""
        count, extra = len(case.features), case.grid.extra
        scores = torch.zeros(count)
        kept = torch.ones(count, dtype=torch.bool)
        for rank in range(case.grid.placed):
            candidates = kept.clone()
            candidates[:extra] = False
            left = candidates.nonzero().squeeze(1)
            tried = kept.repeat(len(left), 1)
            tried[torch.arange(len(left)), left] = False
            removed = left[case.kept_only(tried).argmin()]
            kept[removed] = False
            scores[removed] = 1 - (rank + 0.5) / case.grid.placed
        return scores

    def work(self, image_tokens: int) -> Work:
        """Return one pass forward for each pair of tokens."""
        pairs = image_tokens * (image_tokens + 1) // 2
        return Work(forwards=pairs, sequences=image_tokens)
