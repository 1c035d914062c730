"""DINOv3's vision transformer (arXiv:2508.10104): a class token, registers, patches; rotary positions of any size.

Its convolutional sibling (`dinov3_convnext`) has no sequence of patches and is not supported.
"""

from typing import Any

import transformers
from packaging import version

from olivine.model.towers.dinov2 import Dinov2

#: Until then the renaming of this tower's tensors was applied to all of a model's.
_SINCE = "5.9"


class Dinov3(Dinov2):
    """DINOv3 ViT; published folders resize bilinearly."""

    model_type = "dinov3_vit"
    resample = "bilinear"
    tiny = {  # noqa: RUF012
        "model_type": "dinov3_vit",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 8,
        "num_register_tokens": 4,
    }

    def unusable(self) -> str | None:
        """Return that older versions write a LLaVA with this tower under names that they cannot read."""
        if version.parse(transformers.__version__) >= version.parse(_SINCE):
            return None
        return (
            f"transformers {transformers.__version__} saves the language model beside it under wrong names; "
            f"install {_SINCE} or newer"
        )

    def registers(self, config: Any) -> int:
        """Return the configuration's number of registers."""
        count: int = config.num_register_tokens
        return count
