"""Occlusion of image tokens (after Zeiler & Fergus 2013, arXiv:1311.2901): each is replaced by the baseline in turn."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work


class Occlusion(Method):
    """How much log-probability is lost without a token.

    Needs the model's output alone.
    """

    name: ClassVar[str] = "occlusion"
    about: ClassVar[str] = "log-probability lost when a token is replaced by the baseline"

    def token_scores(self, case: Case) -> Tensor:
        """Return the losses."""
        count = len(case.features)
        kept = torch.cat([torch.ones(1, count, dtype=torch.bool), ~torch.eye(count, dtype=torch.bool)])
        found = case.kept_only(kept)
        return found[0] - found[1:]

    def work(self, image_tokens: int) -> Work:
        """Return one pass forward for each token."""
        return Work(forwards=image_tokens + 1, sequences=image_tokens)
