"""tiny-SigLIP: every image and caption of a batch is judged as a pair of its own (arXiv:2303.15343); no class token.

What it has in common with tiny-CLIP is in `image_text`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from olivine.model.towers.siglip import Siglip
from olivine.world.pretraining.image_text import Heads, ImageTextPretraining
from olivine.world.pretraining.towers import SHAPE
from olivine.world.scene import SIDE


class SiglipPretraining(ImageTextPretraining):
    """A `SiglipVisionModel` without its pooling head, which no image feature passes."""

    name = "siglip"
    family = Siglip

    def new_tower(self) -> Any:
        """Return a SigLIP tower of the towers' common shape."""
        return SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=SHAPE.hidden,
                intermediate_size=4 * SHAPE.hidden,
                num_hidden_layers=SHAPE.layers,
                num_attention_heads=SHAPE.heads,
                image_size=SIDE,
                patch_size=SHAPE.patch,
                vision_use_head=False,
            )
        )

    def new_heads(self) -> Heads:
        """Return SigLIP's: similarities are multiplied by 10 at first, and a bias of -10 is added."""
        heads = Heads(10.0)
        heads.bias = nn.Parameter(torch.tensor(-10.0))
        return heads

    def pooled(self, pixels: Tensor) -> Tensor:
        """Average the patches, which the tower has normalised."""
        states: Tensor = self.tower(pixels, interpolate_pos_encoding=pixels.shape[-1] != SIDE).last_hidden_state
        return states.mean(dim=1)

    def loss(self, seen: Tensor, read: Tensor, captions: list[str]) -> tuple[Tensor, dict[str, float]]:
        """Return the sigmoid loss; an image matches every caption equal to its own."""
        scale, bias = self.heads.scale(), self.heads.get_parameter("bias")
        return sigmoid_loss(seen, read, scale, bias, captions), {"scale": scale.item(), "bias": bias.item()}


def sigmoid_loss(seen: Tensor, read: Tensor, scale: Tensor, bias: Tensor, captions: list[str]) -> Tensor:
    """Return SigLIP's loss (arXiv:2303.15343, algorithm 1), an image matching every caption equal to its own.

    Args:
        seen, read: `[batch, width]`, images and captions, of length one each row.
        scale, bias: scalars; a pair's logit is `scale * similarity + bias`.
        captions: the texts, for finding equal ones.

    Returns:
        A scalar, fp32: summed over all pairs, divided by the batch's size.
    """
    logits = (scale * seen @ read.T + bias).float()
    names = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    key = torch.tensor([names[caption] for caption in captions], device=logits.device)
    signs = torch.where(key[:, None] == key[None], 1.0, -1.0)
    return -F.logsigmoid(signs * logits).sum() / len(captions)
