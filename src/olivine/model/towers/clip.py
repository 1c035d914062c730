"""CLIP's vision transformer (arXiv:2103.00020): one class token, learnt positions.

`registry` lists the other families.
"""

import re
from typing import Any

from olivine.model.towers.family import CLIP_LINEAR, CLIP_STATISTICS, TowerFamily
from olivine.model.weights import CLIP_LAYERS, Naming, naming_inside


class Clip(TowerFamily):
    """CLIP of any size."""

    model_type = "clip_vision_model"
    statistics = CLIP_STATISTICS
    linear_names = CLIP_LINEAR
    position_table = "embeddings.position_embedding.weight"
    tiny = {  # noqa: RUF012
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }

    def naming(self, of_folder: Any) -> Naming:
        """Return the naming in a tower's folder, a whole CLIP's or one of the LLaVA type."""
        return naming_inside(of_folder, "clip", CLIP_LAYERS, spare=re.compile(r"^visual_projection\."))
