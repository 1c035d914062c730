"""Which patches of the tower's grid each image token stands for, and where these are in the image.

What the tokens' scores are is decided by the methods.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from olivine.data.images import ImageTransform
from olivine.errors import RequestError
from olivine.model.connectors.base import Connector
from olivine.model.towers.assembly import shown_features
from olivine.model.vlm import VisionLanguageModel

#: (left, top, right, bottom), in pixels.
Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """An image's tokens as a square of patches.

    Attributes:
        side: patches along a side of the tower's grid.
        extra: tokens in front that are no patches (registers): they have no place in the map.
        factor: patches along a side of what one token stands for.
    """

    side: int
    extra: int = 0
    factor: int = 1

    @property
    def cells(self) -> int:
        """Tokens along a side."""
        return self.side // self.factor

    @property
    def placed(self) -> int:
        """The number of tokens that have a place."""
        return self.cells**2

    @property
    def tokens(self) -> int:
        """The number of tokens of an image."""
        return self.extra + self.placed

    def of_tokens(self, scores: Tensor) -> Tensor:
        """Return `[..., image tokens]` without those that have no place, `[..., placed]`, row by row."""
        assert scores.shape[-1] == self.tokens, f"{scores.shape[-1]} scores for {self.tokens} image tokens"
        return scores[..., self.extra :]

    def map(self, scores: Tensor) -> NDArray[np.float32]:
        """Return the scores of image tokens over the tower's own grid, `[side, side]`.

        A token that stands for several patches gives each an equal part: the map's sum is the tokens' sum.
        """
        square = self.of_tokens(scores.detach().float().cpu()).reshape(self.cells, self.cells)
        spread = square.repeat_interleave(self.factor, 0).repeat_interleave(self.factor, 1) / self.factor**2
        return spread.numpy()

    def cell_boxes(self, size: float) -> NDArray[np.float64]:
        """Return each placed token's (left, top, right, bottom) in a square image of `size` pixels, `[placed, 4]`."""
        edges = np.linspace(0.0, size, self.cells + 1)
        top, left = (each.ravel() for each in np.meshgrid(np.arange(self.cells), np.arange(self.cells), indexing="ij"))
        return np.stack([edges[left], edges[top], edges[left + 1], edges[top + 1]], axis=1)


def token_grid(vlm: VisionLanguageModel) -> TokenGrid:
    """Return the grid of a model's image tokens.

    Raises:
        RequestError: the connector's tokens stand for no part of the image (a resampler's queries, say).
    """
    config = vlm.model.config
    features = shown_features(
        config.vision_config, config.vision_feature_select_strategy, config.vision_feature_layer, vlm.transform.size
    )
    connector = vlm.connector
    factor = connector.patches_along_token(connector.options) if isinstance(connector, Connector) else 1
    if factor is None:
        kind = type(connector).kind  # type: ignore[attr-defined]
        raise RequestError(
            f"connector {kind!r}: its image tokens stand for no part of the image each, so there is no map to draw. "
            "Explain a model whose connector keeps the grid (mlp, linear, pixel-shuffle, pool)."
        )
    grid = TokenGrid(features.side, features.extra, factor)
    if grid.tokens != vlm.image_tokens:
        raise RequestError(
            f"the model's images take {vlm.image_tokens} tokens, but its tower and connector give {grid.tokens}: "
            "the tokens cannot be placed."
        )
    return grid


def fitted_box(box: Corners, size: tuple[int, int], transform: ImageTransform) -> Corners | None:
    """Return a box of an image as the tower's square has it, cut at its edges; None if nothing of it is visible.

    Args:
        box: in the image's pixels.
        size: the image's (width, height).
        transform: what fits images to the tower.
    """
    width, height = size
    side = float(transform.size)
    if transform.fit == "squash":
        scale_x, scale_y = side / width, side / height
    else:
        scale_x = scale_y = side / (min(size) if transform.fit == "crop" else max(size))
    move_x, move_y = (side - width * scale_x) / 2, (side - height * scale_y) / 2
    left, right = (min(max(x * scale_x + move_x, 0.0), side) for x in (box[0], box[2]))
    top, bottom = (min(max(y * scale_y + move_y, 0.0), side) for y in (box[1], box[3]))
    return (left, top, right, bottom) if right > left and bottom > top else None


def placed_mask(grid: TokenGrid, kept: Tensor) -> Tensor:
    """Return which image tokens stay, `[..., image tokens]` bool, from `[..., placed]`; those without a place do."""
    extra = torch.ones(*kept.shape[:-1], grid.extra, dtype=torch.bool, device=kept.device)
    return torch.cat([extra, kept], dim=-1)
