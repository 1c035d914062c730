"""A linear map between two models' features of the same image tokens, by ridge regression.

What is mapped into what is decided in `stitching`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

#: Ridge penalties tried, as fractions of the features' mean variance.
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
#: One image in this number is held out to choose the penalty.
_HELD_OUT = 5


@dataclass(frozen=True, slots=True)
class LinearMap:
    """`features @ weight + bias`.

    Attributes:
        weight: `[width, other width]` fp32.
        bias: `[other width]` fp32.
        explained: share of the held-out images' variance that it predicts.
    """

    weight: Tensor
    bias: Tensor
    explained: float

    def __call__(self, features: Tensor) -> Tensor:
        """Map `[..., width]` to `[..., other width]` in fp32."""
        return features.float() @ self.weight.to(features.device) + self.bias.to(features.device)


def fit_linear_map(features: Tensor, targets: Tensor) -> LinearMap:
    """Fit a map for tokens; the penalty is the one that predicts held-out images best, and the fit then uses all.

    Args:
        features: `[images, tokens, width]`.
        targets: `[images, tokens, other width]`.
    """
    held = torch.arange(len(features)) % _HELD_OUT == 0
    scores = [_explained(_ridge(features[~held], targets[~held], p), features[held], targets[held]) for p in _PENALTIES]
    best = max(range(len(scores)), key=lambda number: scores[number])
    weight, bias = _ridge(features, targets, _PENALTIES[best])
    return LinearMap(weight.float(), bias.float(), scores[best])


def _ridge(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    x, y = features.flatten(0, 1).double(), targets.flatten(0, 1).double()
    middle, level = x.mean(dim=0), y.mean(dim=0)
    centred = x - middle
    gram = centred.T @ centred
    ridge = penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram + ridge, centred.T @ (y - level))
    return weight, level - middle @ weight


def _explained(fitted: tuple[Tensor, Tensor], features: Tensor, targets: Tensor) -> float:
    weight, bias = fitted
    y = targets.flatten(0, 1).double()
    left = y - (features.flatten(0, 1).double() @ weight + bias)
    return float(1 - left.square().sum() / (y - y.mean(dim=0)).square().sum())
