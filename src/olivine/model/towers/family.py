"""The interface of a family of vision towers.

The families are in the other files of this package, one each; `registry` lists them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from olivine.errors import RequestError
from olivine.model.weights import Naming
from olivine.recipe import Resample

#: CLIP's and SigLIP's linear layers by the names of language models.
CLIP_LINEAR: Mapping[str, tuple[str, ...]] = {
    "q_proj": ("q_proj",),
    "k_proj": ("k_proj",),
    "v_proj": ("v_proj",),
    "o_proj": ("out_proj",),
    "up_proj": ("fc1",),
    "down_proj": ("fc2",),
}
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
CLIP_STATISTICS: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF_STATISTICS: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class TowerFamily:
    """A family of towers: one `model_type` of transformers, whose hidden states are prefix tokens, then patches.

    Derive from it and offer the class under the entry-point group `olivine.towers`, named by its `model_type`.

    Attributes:
        model_type: of the tower's own configuration, as transformers has it.
        statistics: (mean, standard deviation) of each channel, if the tower's folder has none.
        resample: the filter that fits images to the tower's square, if its folder names none.
        class_tokens: how many tokens come before registers and patches.
        position_table: name of the learnt position embeddings in the tower's state, if they fit only one
            `image_size`; None if the tower itself supports any multiple of its patch size.
        linear_names: names of its blocks' linear layers, in all supported versions of transformers, by the names of the
            corresponding layers of language models; empty if low-rank updates are not supported.
        inner: module that holds the layers in some versions of transformers and not in others, or None.
        tiny: configuration of a tiny random tower with 8-pixel patches, for conformance tests.
    """

    model_type: ClassVar[str]
    statistics: ClassVar[Statistics]
    resample: ClassVar[Resample] = "bicubic"
    class_tokens: ClassVar[int] = 1
    position_table: ClassVar[str | None] = None
    linear_names: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    tiny: ClassVar[dict[str, Any]]

    def unusable(self) -> str | None:
        """Return why the installed transformers does not support this family; None if it does."""
        return None

    def registers(self, config: Any) -> int:  # noqa: ARG002  # most families have none
        """Return how many register tokens are between class token and patches."""
        return 0

    def prefix(self, config: Any) -> int:
        """Return how many tokens are before the patches."""
        return self.class_tokens + self.registers(config)

    def default_size(self, config: Any) -> int:
        """Return the side of the square, in pixels, that the tower takes if neither recipe nor folder says."""
        size: int = config.image_size
        return size

    def grid(self, config: Any, size: int) -> int:
        """Return the number of patches along a side of `size` pixels.

        Raises:
            RequestError: the patches do not divide the side.
        """
        patch: int = config.patch_size
        side = size // patch
        if side * patch != size:
            near = f"nearest are {side * patch} and {(side + 1) * patch}" if side else f"nearest is {patch}"
            raise RequestError(f"model.vision.image_size: {size} is no multiple of the patch size {patch}; the {near}.")
        return side

    def naming(self, of_folder: Any) -> Naming:
        """Return which tensors of a folder of this configuration are the tower's, and their names in it."""
        raise NotImplementedError

    def resized_state(self, state: dict[str, Tensor], config: Any, size: int) -> dict[str, Tensor]:
        """Return a tower's state with its position embeddings resampled for images of `size` pixels."""
        assert self.position_table is not None, "only learnt tables are resampled"
        name = next(name for name in state if name.endswith(self.position_table))
        resized = resample_positions(state[name], self.class_tokens, self.grid(config, size))
        return {**state, name: resized}


def resample_positions(table: Tensor, prefix: int, side: int) -> Tensor:
    """Resample learnt positions `[prefix + grid * grid, width]` to another grid, `[prefix + side * side, width]`.

    Bicubic, as transformers' own `interpolate_pos_encoding` does it at each forward pass; prefix tokens keep theirs.
    """
    patches = table[prefix:].float()
    before, width = round(len(patches) ** 0.5), table.shape[1]
    square = patches.view(1, before, before, width).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    rows = resized.permute(0, 2, 3, 1).reshape(side * side, width).to(table.dtype)
    return torch.cat([table[:prefix], rows])
