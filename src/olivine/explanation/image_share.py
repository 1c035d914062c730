"""How much of an answer the image gives at all: its log-probability with the image, without it, with another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from olivine.explanation.case import explained_scores
from olivine.explanation.explainer import Asked, Explainer
from olivine.model.recorded_attention import run_sequences


@dataclass(frozen=True, slots=True)
class ImageShare:
    """Log-probabilities of the explained tokens, in nats.

    Attributes:
        with_image: with the question's own image.
        blind: without an image.
        other: with another image.
        decided: whether the model would say something else without the image.
    """

    with_image: float
    blind: float
    other: float
    decided: bool


@torch.no_grad()
def image_share(explainer: Explainer, asked: Asked, tokens: tuple[int, ...], other: Tensor) -> ImageShare:
    """Return the log-probabilities of some of the answer's tokens.

    Args:
        explainer: the model.
        asked: the question with its answer.
        tokens: positions in the answer.
        other: `[image tokens, hidden]`, another image's features.
    """
    case = explainer.case(asked, tokens)
    with_image, with_other = case.scores(torch.stack([asked.features, other])).tolist()
    ids, predicting = explainer.blind_ids(asked, tokens)
    vlm = explainer.vlm
    embedded = vlm.embed(ids, None)
    blind = float(explained_scores(vlm, embedded, predicting, case.explained)[0])
    return ImageShare(with_image, blind, with_other, _decided(explainer, embedded, predicting, case.explained))


def _decided(explainer: Explainer, embedded: Tensor, predicting: tuple[int, ...], explained: tuple[int, ...]) -> bool:
    """Return whether the blind model's most probable tokens differ at one of the positions."""
    hidden = run_sequences(explainer.vlm.language, embedded)
    best = explainer.vlm.logits(hidden[0, list(predicting)]).argmax(dim=-1)
    return best.tolist() != list(explained)
