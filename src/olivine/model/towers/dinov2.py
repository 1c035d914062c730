"""DINOv2 (arXiv:2304.07193) without registers: one class token, positions that the tower itself resamples.

DINOv2 with registers is in `dinov2_registers`.
"""

import re
from typing import Any

from olivine.model.towers.family import IMAGENET_STATISTICS, TowerFamily
from olivine.model.weights import IN_LLAVA, IN_LLAVA_PREFIX, Naming


class Dinov2(TowerFamily):
    """DINOv2 of any size. Its configuration says 518 pixels; its published processor makes 224."""

    model_type = "dinov2"
    statistics = IMAGENET_STATISTICS
    #: Names in older and newer versions of transformers; `weights_in` and `weights_out` are the largest size's.
    linear_names = {  # noqa: RUF012
        "q_proj": ("q_proj", "query"),
        "k_proj": ("k_proj", "key"),
        "v_proj": ("v_proj", "value"),
        "o_proj": ("o_proj", "dense"),
        "up_proj": ("fc1", "weights_in", "up_proj"),
        "gate_proj": ("gate_proj",),
        "down_proj": ("fc2", "weights_out", "down_proj"),
    }
    tiny = {  # noqa: RUF012
        "model_type": "dinov2",
        "hidden_size": 32,
        "mlp_ratio": 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 8,
    }

    def default_size(self, config: Any) -> int:  # noqa: ARG002
        """Return 224, as its published processor has it."""
        return 224

    def naming(self, of_folder: Any) -> Naming:
        """Return the naming in a tower's or classifier's folder, or in one of the LLaVA type."""
        if getattr(of_folder, "text_config", None) is not None:
            return Naming({IN_LLAVA_PREFIX: ""}, inside=IN_LLAVA)
        return Naming({}, spare=re.compile(r"^classifier\."))
