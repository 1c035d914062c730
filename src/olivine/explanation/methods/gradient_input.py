"""Gradient times input (Shrikumar et al. 2016, arXiv:1605.01713), at the connector's output."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work


class GradientInput(Method):
    """The gradient of the log-probability times each token's features, summed over channels."""

    name: ClassVar[str] = "gradient-input"
    about: ClassVar[str] = "gradient times features, at the connector's output"

    def token_scores(self, case: Case) -> Tensor:
        """Return the products."""
        features = case.features[None].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(case.scores(features).sum(), features)
        return (gradient.float() * features.detach().float()).sum(dim=-1)[0].cpu()

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return one pass forward and backward."""
        return Work(backwards=1)
