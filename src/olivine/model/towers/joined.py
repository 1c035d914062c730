"""A tower made of towers: features of several joined channel by channel, or of one without its registers.

Needed because transformers' LLaVA can only drop a tower's first token, or none. Loading such a
folder needs `import olivine` first, which registers the classes here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

#: The model type of a joined tower, in the `vision_config` of a LLaVA configuration.
JOINED = "olivine_tower"


class JoinedTowerConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is untyped here
    """A joined tower.

    Attributes:
        parts: for each tower its `config`, the number of tokens before its patches (`prefix`), the hidden states
            used (`layers`), and the `mean` and `std` of its pixels.
        pixel_mean, pixel_std: the normalisation of the incoming images.
        hidden_size: of all features together.
        image_size, patch_size: of the one grid, in pixels.
        num_hidden_layers: of the deepest tower; the output is still one hidden state, of index -1.
    """

    model_type = JOINED
    parts: list[Any] | None = None
    pixel_mean: list[float] | None = None
    pixel_std: list[float] | None = None
    hidden_size: int = 0
    image_size: int = 0
    patch_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int = 1
    initializer_range: float = 0.02


class JoinedTower(PreTrainedModel):  # type: ignore[misc]
    """Runs each tower on the same images and joins the features of their patches."""

    config_class = JoinedTowerConfig
    base_model_prefix = "joined"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: JoinedTowerConfig) -> None:
        super().__init__(config)
        self.towers = nn.ModuleList(AutoModel.from_config(part_config(part)) for part in config.parts or ())
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the towers' own classes have initialised their weights."""

    def forward(self, pixel_values: Tensor, **_options: Any) -> BaseModelOutputWithPooling:
        """Turn images `[images, 3, size, size]` into features `[images, patches, hidden_size]`."""
        found = []
        for tower, part in zip(self.towers, self.config.parts, strict=True):
            pixels = renormalised(
                pixel_values, self.config.pixel_mean, self.config.pixel_std, part["mean"], part["std"]
            )
            states = tower(pixels, output_hidden_states=True).hidden_states
            found += [states[layer][:, part["prefix"] :] for layer in part["layers"]]
        features = torch.cat(found, dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=features, hidden_states=(features,))


def part_config(part: dict[str, Any]) -> Any:
    """Return the transformers configuration of one of a joined tower's parts."""
    values = dict(part["config"])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def renormalised(
    pixels: Tensor, mean: list[float], std: list[float], other_mean: list[float], other_std: list[float]
) -> Tensor:
    """Return pixels normalised with one mean and standard deviation as another tower expects them; fp32 inside."""
    if (list(mean), list(std)) == (list(other_mean), list(other_std)):
        return pixels

    def per_channel(values: list[float]) -> Tensor:
        return torch.tensor(values, device=pixels.device).view(1, -1, 1, 1)

    raw = pixels.float() * per_channel(std) + per_channel(mean)
    return ((raw - per_channel(other_mean)) / per_channel(other_std)).to(pixels.dtype)


AutoConfig.register(JOINED, JoinedTowerConfig)
AutoModel.register(JoinedTowerConfig, JoinedTower)
