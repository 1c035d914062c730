"""RISE (Petsiuk et al. 2018, arXiv:1806.07421) over image tokens: random masks, weighted by probability."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work
from olivine.statistics import generator


class Rise(Method):
    """The mean probability when a token stays, minus that when it is replaced by the baseline.

    Masks are of tokens, not smooth masks of pixels. They come in complementary pairs, which halves the noise.

    Args:
        masks: how many; half of the tokens stay in each.
    """

    name: ClassVar[str] = "rise"
    about: ClassVar[str] = "probability under random halves of the tokens, where a token stays minus where it does not"

    def __init__(self, masks: int = 200) -> None:
        self.masks = masks

    def token_scores(self, case: Case) -> Tensor:
        """Return the differences."""
        random = generator("rise", case.key).random((self.masks // 2, len(case.features)))
        half = torch.from_numpy(random < 0.5)
        kept = torch.cat([half, ~half])
        probability = case.kept_only(kept).exp()
        stays = kept.float()
        with_token = (probability @ stays) / stays.sum(dim=0)
        return with_token - (probability @ (1 - stays)) / (1 - stays).sum(dim=0)

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return one pass forward for each mask."""
        return Work(forwards=self.masks, sequences=self.masks)
