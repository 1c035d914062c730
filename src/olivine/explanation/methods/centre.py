"""A control: the nearer the middle of the image, the higher the score."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work


class Centre(Method):
    """1 in the middle of the image, falling with the square of the distance."""

    name: ClassVar[str] = "centre"
    about: ClassVar[str] = "control: nearness to the middle of the image"
    signed: ClassVar[bool] = False
    control: ClassVar[bool] = True

    def token_scores(self, case: Case) -> Tensor:
        """Return the nearness; tokens without a place get 0."""
        along = (torch.arange(case.grid.cells) + 0.5) / case.grid.cells * 2 - 1
        square = 1 - (along[:, None] ** 2 + along[None] ** 2) / 2
        return torch.cat([torch.zeros(case.grid.extra), square.flatten()])

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return nothing: no model runs."""
        return Work()
