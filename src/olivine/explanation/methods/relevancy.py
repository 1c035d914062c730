"""Relevancy maps of Chefer et al. 2021 (arXiv:2103.15679), as LVLM-Interpret and the LLaVA-Gemma paper use them."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case, Scored
from olivine.explanation.methods.base import Method, Work
from olivine.model.recorded_attention import AttentionRecord


class Relevancy(Method):
    """Rules 5 and 6 on the language model's self-attention.

    Rule 5: a layer's map is the mean over heads of the positive part of attention times its gradient. Rule 6:
    relevancy, at first the identity, gains the layer's map times itself. Only the explained token's row is computed,
    from the last layer to the first, which is the same row of the same product. The gradient is the logit's, as in
    LVLM-Interpret.
    """

    name: ClassVar[str] = "relevancy"
    about: ClassVar[str] = "Chefer et al.'s relevancy (rules 5 and 6) from the logit, as in LVLM-Interpret"
    signed: ClassVar[bool] = False
    scored: ClassVar[Scored] = "logit"

    def token_scores(self, case: Case) -> Tensor:
        """Return the relevancies."""
        record = AttentionRecord()
        score = case.scores(case.features[None].detach().requires_grad_(), self.scored, record)
        gradients = torch.autograd.grad(score.sum(), record.weights)
        row = torch.zeros(len(case.ids), device=case.ids.device)
        row[list(case.predicting)] = 1.0
        for weights, gradient in zip(reversed(record.weights), reversed(gradients), strict=True):
            row = row + row @ (weights[0].detach() * gradient[0]).clamp(min=0).mean(dim=0)
        return row[case.image_positions].cpu()

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return one pass forward and backward with all attention weights."""
        return Work(backwards=1, weights="all")


class RelevancyOfLogProbability(Relevancy):
    """The same from the log-probability, which also falls where another answer gains."""

    name: ClassVar[str] = "relevancy-log-probability"
    about: ClassVar[str] = "Chefer et al.'s relevancy (rules 5 and 6) from the log-probability"
    scored: ClassVar[Scored] = "log-probability"
