"""tiny-CLIP: the symmetric cross-entropy between a batch's images and captions (arXiv:2103.00020).

What it has in common with tiny-SigLIP is in `image_text`.
"""

from typing import Any

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from olivine.model.loss import contrastive_loss
from olivine.model.towers.clip import Clip
from olivine.world.pretraining.image_text import WIDTH, Heads, ImageTextPretraining
from olivine.world.pretraining.towers import SHAPE
from olivine.world.scene import SIDE


class ClipPretraining(ImageTextPretraining):
    """A `CLIPVisionModel`; its class token takes part and is not asked for."""

    name = "clip"
    family = Clip

    def new_tower(self) -> Any:
        """Return a CLIP tower of the towers' common shape."""
        return CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=SHAPE.hidden,
                intermediate_size=4 * SHAPE.hidden,
                num_hidden_layers=SHAPE.layers,
                num_attention_heads=SHAPE.heads,
                image_size=SIDE,
                patch_size=SHAPE.patch,
                hidden_act="gelu",
                projection_dim=WIDTH,
            )
        )

    def new_heads(self) -> Heads:
        """Return CLIP's: similarities are multiplied by 1 / 0.07 at first."""
        return Heads(1 / 0.07)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Average the patches, as in CLIP's variants without a class token."""
        states = self.tower(pixels, interpolate_pos_encoding=pixels.shape[-1] != SIDE).last_hidden_state
        pooled: Tensor = self.tower.post_layernorm(states[:, 1:].mean(dim=1))
        return pooled

    def loss(self, seen: Tensor, read: Tensor, captions: list[str]) -> tuple[Tensor, dict[str, float]]:
        """Return the cross-entropy of choosing among the batch, both ways."""
        scale = self.heads.scale()
        return contrastive_loss(seen, read, scale, captions), {"scale": scale.item()}
