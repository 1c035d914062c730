"""The logit lens on image tokens (Neo et al. 2024, arXiv:2410.07149): where the answer can be read off a token."""

from typing import ClassVar

import torch
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.methods.base import Method, Work
from olivine.model.recorded_attention import run_sequences


class LogitLens(Method):
    """The explained tokens' highest log-probability over the layers, read through norm and head at each image token."""

    name: ClassVar[str] = "logit-lens"
    about: ClassVar[str] = "the answer's highest log-probability over the layers, read off each image token"
    signed: ClassVar[bool] = False

    @torch.no_grad()
    def token_scores(self, case: Case) -> Tensor:
        """Return the log-probabilities."""
        states = run_sequences(case.vlm.language, case.embed(case.features[None]), every_layer=True)[:, 0]
        best = torch.full((len(case.features),), -torch.inf, device=states.device)
        for layer in states:
            read = case.vlm.logits(layer[case.image_positions]).float().log_softmax(dim=-1)
            best = torch.maximum(best, read[:, list(case.explained)].mean(dim=-1))
        return best.cpu()

    def work(self, image_tokens: int) -> Work:  # noqa: ARG002
        """Return one pass forward that keeps every layer's states."""
        return Work(forwards=1, every_layer=True)
