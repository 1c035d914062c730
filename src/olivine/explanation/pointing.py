"""Whether a map points at what a question is about: the pointing game, and the share of a map inside boxes.

The boxes come from `boxes`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from olivine.explanation.token_grid import Corners, TokenGrid


def hit_cells(grid: TokenGrid, boxes: Sequence[Corners], size: float) -> NDArray[np.bool_]:
    """Return which placed tokens count as a hit: their cell's centre is in a box, or a box's centre in their cell.

    The second holds for objects smaller than a cell.

    Args:
        grid: the tokens' places.
        boxes: in the tower's square of `size` pixels.
        size: the square's side.
    """
    cells = grid.cell_boxes(size)
    hits = np.zeros(grid.placed, dtype=bool)
    for left, top, right, bottom in boxes:
        x, y = (cells[:, 0] + cells[:, 2]) / 2, (cells[:, 1] + cells[:, 3]) / 2
        hits |= (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        hits |= (
            (cells[:, 0] <= middle_x)
            & (middle_x <= cells[:, 2])
            & (cells[:, 1] <= middle_y)
            & (middle_y <= cells[:, 3])
        )
    return hits


def covered(grid: TokenGrid, boxes: Sequence[Corners], size: float) -> NDArray[np.float64]:
    """Return what share of each placed token's cell lies in at least one box, `[placed]`."""
    cells = grid.cell_boxes(size)
    points = (np.arange(8) + 0.5) / 8
    x = cells[:, 0, None] + points * (cells[:, 2] - cells[:, 0])[:, None]
    y = cells[:, 1, None] + points * (cells[:, 3] - cells[:, 1])[:, None]
    inside = np.zeros((grid.placed, len(points), len(points)), dtype=bool)
    for left, top, right, bottom in boxes:
        across, down = (x >= left) & (x <= right), (y >= top) & (y <= bottom)
        inside |= down[:, :, None] & across[:, None, :]
    share: NDArray[np.float64] = inside.mean(axis=(1, 2))
    return share


def mass_inside(grid: TokenGrid, scores: Tensor, cover: NDArray[np.float64]) -> float:
    """Return the share of the positive scores that lies in boxes; the share of the area where no score is positive."""
    positive = grid.of_tokens(scores).clamp(min=0).double().numpy()
    total = positive.sum()
    return float((positive * cover).sum() / total) if total > 0 else float(cover.mean())
