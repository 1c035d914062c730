"""SigLIP's vision transformer (arXiv:2303.15343) and SigLIP2's of fixed resolution (arXiv:2502.14786): no class token.

Published SigLIP2 models of fixed resolution have the model type `siglip`; those of several aspect ratios (NaFlex) have
`siglip2`, take patches and their shapes instead of images, and are refused in `registry`.
"""

from typing import Any

from olivine.model.towers.family import CLIP_LINEAR, HALF_STATISTICS, TowerFamily
from olivine.model.weights import SIGLIP_LAYERS, Naming, naming_inside


class Siglip(TowerFamily):
    """SigLIP and SigLIP2 of fixed resolution. SigLIP2's folders say that they resize bilinearly."""

    model_type = "siglip_vision_model"
    statistics = HALF_STATISTICS
    class_tokens = 0
    linear_names = CLIP_LINEAR
    position_table = "embeddings.position_embedding.weight"
    tiny = {  # noqa: RUF012
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }

    def naming(self, of_folder: Any) -> Naming:
        """Return the naming in a tower's folder, a whole SigLIP's or one of the LLaVA type."""
        return naming_inside(of_folder, "siglip", SIGLIP_LAYERS)
