"""How far to trust a map: what the answer's probability does as image tokens are removed, or given, in its order.

Deletion and insertion after Petsiuk et al. 2018 (arXiv:1806.07421), over image tokens; boxes are in `pointing`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.token_grid import placed_mask
from olivine.statistics import generator

#: A curve has at most this many steps.
_STEPS = 10
#: Random orders that a map's curve is compared with, averaged.
RANDOM_ORDERS = 4


@dataclass(frozen=True, slots=True)
class Curves:
    """The explained tokens' probability, by the share of image tokens removed (deletion) or given (insertion).

    Attributes:
        shares: `[points]`, from 0 to 1.
        deletion, insertion: `[points]`.
    """

    shares: NDArray[np.float64]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    @property
    def areas(self) -> tuple[float, float]:
        """The areas under deletion (lower is better) and insertion (higher is better), from 0 to 1."""
        return float(np.trapezoid(self.deletion, self.shares)), float(np.trapezoid(self.insertion, self.shares))


def order_of(case: Case, scores: Tensor) -> Tensor:
    """Return the placed tokens from the highest score to the lowest, `[placed]`; equal scores in a random order."""
    placed = case.grid.of_tokens(scores)
    if not torch.isfinite(placed).all():
        raise ValueError("a score is not finite")
    shuffled = torch.from_numpy(generator("ties", case.key).permutation(len(placed)))
    return shuffled[torch.sort(placed[shuffled], descending=True, stable=True).indices]


def random_orders(case: Case) -> list[Tensor]:
    """Return the random orders to compare with."""
    random = generator("random orders", case.key)
    return [torch.from_numpy(random.permutation(case.grid.placed)) for _ in range(RANDOM_ORDERS)]


def curves(case: Case, orders: Sequence[Tensor]) -> list[Curves]:
    """Return the curves of several orders of the placed tokens, all run together."""
    placed = case.grid.placed
    counts = np.unique(np.linspace(0, placed, min(placed, _STEPS) + 1).round().astype(int))
    ranks = torch.stack([torch.argsort(order) for order in orders])
    inner = torch.from_numpy(counts[1:-1])
    removed = ranks[:, None] < inner[None, :, None]
    ends = torch.tensor([[True], [False]]).expand(2, placed)
    kept = torch.cat([ends, (~removed).flatten(0, 1), removed.flatten(0, 1)])
    probability = case.kept_only(placed_mask(case.grid, kept)).double().exp().numpy()
    (whole, none), between = probability[:2], probability[2:].reshape(2, len(orders), len(inner))
    return [
        Curves(
            counts / placed,
            np.concatenate([[whole], between[0, number], [none]]),
            np.concatenate([[none], between[1, number], [whole]]),
        )
        for number in range(len(orders))
    ]


def areas(case: Case, maps: Mapping[str, Tensor]) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """Return each map's areas under deletion and insertion, and the random orders' mean ones."""
    chance = random_orders(case)
    found = [one.areas for one in curves(case, [*(order_of(case, scores) for scores in maps.values()), *chance])]
    deletion, insertion = np.mean(found[len(maps) :], axis=0)
    return dict(zip(maps, found, strict=False)), (float(deletion), float(insertion))
