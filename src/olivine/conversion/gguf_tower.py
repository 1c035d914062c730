"""A vision tower as plain arrays, whatever its family: what a GGUF file of llama.cpp's LLaVA graph is made of.

What that graph does with a class token is mended in `gguf_order`; names and metadata are in `gguf_vision`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from olivine.conversion.gguf_file import as_arrays
from olivine.errors import RequestError
from olivine.model.towers.registry import tower_family
from olivine.model.vlm import VisionLanguageModel

Array = NDArray[np.float32]
#: Activations of a tower and whether llama.cpp's `use_gelu` stands for them; exact GELU is computed in its tanh form.
ACTIVATIONS = {"quick_gelu": False, "gelu": True, "gelu_pytorch_tanh": True}


@dataclass(slots=True)
class Linear:
    """A linear layer: weight `[out, in]`, bias `[out]`."""

    weight: Array
    bias: Array


@dataclass(slots=True)
class Norm:
    """A layer norm's weight and bias, `[width]`."""

    weight: Array
    bias: Array


@dataclass(slots=True)
class Block:
    """One transformer block, normed before attention and before its MLP; layer scale is in `out` and `down`."""

    before_attention: Norm
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    before_mlp: Norm
    up: Linear
    down: Linear


@dataclass(slots=True)
class Tower:
    """A tower up to the hidden state that the connector reads.

    Attributes:
        kernel: of the patches' convolution, `[width, 3, patch, patch]`; `patch_bias`: `[width]` or None.
        class_row: the class token `[width]`, or None.
        positions: `[tokens, width]`, the class token's first.
        pre_norm: a norm before the first block, or None.
        heads, eps, activation, image_size, patch: as the family's configuration has them.
    """

    kernel: Array
    patch_bias: Array | None
    class_row: Array | None
    positions: Array
    pre_norm: Norm | None
    blocks: list[Block]
    heads: int
    eps: float
    activation: str
    image_size: int
    patch: int
    #: Blocks, counted from the front, that must keep their values in a quantised file.
    exact_blocks: set[int] = field(default_factory=set)

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return self.positions.shape[1]

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.image_size // self.patch) ** 2


def tower_arrays(vlm: VisionLanguageModel) -> Tower:
    """Return a model's tower as arrays.

    Raises:
        RequestError: llama.cpp's LLaVA graph cannot hold it.
    """
    config = vlm.model.config.vision_config
    check_tower(vlm.model.config)
    state = as_arrays(vlm.tower.state_dict())
    state = {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}
    depth = _blocks_needed(vlm.model.config.vision_feature_layer, config.num_hidden_layers)
    common: dict[str, Any] = {
        "blocks": [_block(state, config.model_type, number) for number in range(depth)],
        "heads": config.num_attention_heads,
        "eps": config.layer_norm_eps,
        "activation": config.hidden_act,
        "image_size": vlm.transform.size,
        "patch": config.patch_size,
    }
    if config.model_type == "dinov2":
        return Tower(
            kernel=state["embeddings.patch_embeddings.projection.weight"],
            patch_bias=state["embeddings.patch_embeddings.projection.bias"],
            class_row=state["embeddings.cls_token"][0, 0],
            positions=_dinov2_positions(vlm),
            pre_norm=None,
            **common,
        )
    with_class = config.model_type == "clip_vision_model"
    return Tower(
        kernel=state["embeddings.patch_embedding.weight"],
        patch_bias=state.get("embeddings.patch_embedding.bias"),
        class_row=state["embeddings.class_embedding"] if with_class else None,
        positions=state["embeddings.position_embedding.weight"],
        pre_norm=Norm(state["pre_layrnorm.weight"], state["pre_layrnorm.bias"]) if with_class else None,
        **common,
    )


def check_tower(config: Any) -> None:
    """Refuse a whole model's configuration whose tower llama.cpp's LLaVA graph cannot hold.

    Raises:
        RequestError: the message names what.
    """
    tower = config.vision_config
    if tower.model_type not in ("clip_vision_model", "dinov2", "siglip_vision_model"):
        raise RequestError(
            f"--to gguf: vision tower {tower.model_type!r}: llama.cpp's LLaVA graph holds CLIP, SigLIP and "
            "DINOv2 without registers. Export --to transformers instead."
        )
    if getattr(tower, "use_swiglu_ffn", False):
        raise RequestError("--to gguf: DINOv2 with a SwiGLU MLP is not in llama.cpp's LLaVA graph.")
    if tower.hidden_act not in ACTIVATIONS:
        raise RequestError(
            f"--to gguf: the tower's hidden_act is {tower.hidden_act!r}; llama.cpp has {', '.join(ACTIVATIONS)}."
        )
    if not isinstance(config.vision_feature_layer, int):
        raise RequestError("--to gguf: features of several layers; llama.cpp's LLaVA projector reads one.")
    expected = "full" if tower.model_type == "siglip_vision_model" else "default"
    if config.vision_feature_select_strategy != expected:
        raise RequestError(
            f"--to gguf: vision_feature_select_strategy {config.vision_feature_select_strategy!r}: llama.cpp "
            "always drops the class token where there is one."
        )


def _blocks_needed(layer: int, layers: int) -> int:
    depth = layer if layer >= 0 else layers + 1 + layer
    if not 1 <= depth <= layers:
        raise RequestError(f"--to gguf: vision_feature_layer {layer} of {layers} layers; expected one behind a block.")
    return depth


def _block(state: Mapping[str, Array], model_type: str, number: int) -> Block:
    names = tower_family(model_type).linear_names
    prefix = f"encoder.layer{'' if model_type == 'dinov2' else 's'}.{number}."
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

    def linear(common: str, scale: str | None = None) -> Linear:
        own = next(n for n in inside if n.endswith(".weight") and n.split(".")[-2] in names[common])
        weight, bias = inside[own], inside[own.removesuffix("weight") + "bias"]
        if scale is None or model_type != "dinov2":
            return Linear(weight, bias)
        by = inside[f"{scale}.lambda1"]
        return Linear(weight * by[:, None], bias * by)

    def norm(*candidates: str) -> Norm:
        own = next(name for name in candidates if f"{name}.weight" in inside)
        return Norm(inside[f"{own}.weight"], inside[f"{own}.bias"])

    return Block(
        norm("layer_norm1", "norm1"),
        linear("q_proj"),
        linear("k_proj"),
        linear("v_proj"),
        linear("o_proj", "layer_scale1"),
        norm("layer_norm2", "norm2"),
        linear("up_proj"),
        linear("down_proj", "layer_scale2"),
    )


@torch.no_grad()
def _dinov2_positions(vlm: VisionLanguageModel) -> Array:
    """Return DINOv2's positions for the model's image size, which the tower itself resamples at each forward pass."""
    embeddings: Any = vlm.tower.embeddings
    side = vlm.transform.size
    table = embeddings.position_embeddings
    patches = (side // vlm.model.config.vision_config.patch_size) ** 2
    tokens = torch.zeros(1, patches + 1, table.shape[-1])
    return embeddings.interpolate_pos_encoding(tokens, side, side)[0].float().numpy()
