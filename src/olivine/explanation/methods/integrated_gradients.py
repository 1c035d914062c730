"""Integrated gradients on the connector's output (Sundararajan et al. 2017, arXiv:1703.01365)."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work


class IntegratedGradients(Method):
    """Gradients of the log-probability along the straight path from the baseline to the image, times the difference.

    Scores sum to the difference in log-probability between image and baseline, up to the error of the midpoint rule.

    Args:
        steps: points of the path.
    """

    name: ClassVar[str] = "integrated-gradients"
    about: ClassVar[str] = "gradients along a path from the baseline to the image's tokens, at the connector's output"

    def __init__(self, steps: int = 8) -> None:
        self.steps = steps

    def token_scores(self, case: Case) -> Tensor:
        """Return each token's part of the difference in log-probability."""
        features, baseline = case.features.float(), case.baseline.float()
        shares = (torch.arange(self.steps, device=features.device) + 0.5) / self.steps
        total = torch.zeros_like(features)
        for chunk in shares.split(case.backward_batch):
            points = (baseline + chunk[:, None, None] * (features - baseline)).to(case.features.dtype).requires_grad_()
            (gradient,) = torch.autograd.grad(case.scores(points).sum(), points)
            total += gradient.float().sum(dim=0)
        return (total / self.steps * (features - baseline)).sum(dim=-1).cpu()

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return its steps, forward and backward."""
        return Work(backwards=self.steps, sequences=self.steps)
