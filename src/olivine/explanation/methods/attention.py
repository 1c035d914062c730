"""Raw attention from the explained token's position to the image's tokens, averaged over heads and layers."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work
from olivine.model.recorded_attention import AttentionRecord


class Attention(Method):
    """The mean attention weight over heads and layers.

    Keeps one query's weights only.
    """

    name: ClassVar[str] = "attention"
    about: ClassVar[str] = "attention weights from the answer to the image, averaged over heads and layers"
    signed: ClassVar[bool] = False

    @torch.no_grad()
    def token_scores(self, case: Case) -> Tensor:
        """Return the weights."""
        record = AttentionRecord(rows=case.predicting)
        case.scores(case.features[None], record=record)
        rows = torch.stack([weights[0].mean(dim=(0, 1)) for weights in record.weights]).mean(dim=0)
        return rows[case.image_positions].cpu()

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return one pass forward."""
        return Work(forwards=1, weights="rows")
