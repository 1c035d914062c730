"""A control: scores drawn at random, the same for the same question."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work
from olivine.statistics import generator


class RandomOrder(Method):
    """Uniform scores from 0 to 1."""

    name: ClassVar[str] = "random"
    about: ClassVar[str] = "control: random scores"
    signed: ClassVar[bool] = False
    control: ClassVar[bool] = True

    def token_scores(self, case: Case) -> Tensor:
        """Return the scores."""
        drawn = generator("random map", case.key).random(len(case.features))
        return torch.from_numpy(drawn).float()

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return nothing: no model runs."""
        return Work()
