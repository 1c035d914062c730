"""Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928): attention multiplied through the layers."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work
from olivine.model.recorded_attention import AttentionRecord


class Rollout(Method):
    """Each layer's mean attention with half an identity for the residual connection, multiplied from first to last.

    Only the explained token's row of the product is computed.
    """

    name: ClassVar[str] = "rollout"
    about: ClassVar[str] = "attention with the residual connection, multiplied through all layers"
    signed: ClassVar[bool] = False

    @torch.no_grad()
    def token_scores(self, case: Case) -> Tensor:
        """Return the row."""
        record = AttentionRecord()
        case.scores(case.features[None], record=record)
        row = torch.zeros(len(case.ids), device=case.ids.device)
        row[list(case.predicting)] = 1 / len(case.predicting)
        for weights in reversed(record.weights):
            row = 0.5 * (row @ weights[0].mean(dim=0) + row)
        return row[case.image_positions].cpu()

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return one pass forward with all attention weights."""
        return Work(forwards=1, weights="all")
