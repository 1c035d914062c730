"""Tower and connector as llama.cpp's mmproj file, for its LLaVA graph."""

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from olivine.conversion.gguf_file import GgufFile, as_arrays
from olivine.conversion.gguf_language import image_scale
from olivine.conversion.gguf_order import CARRIED, moved_by_one
from olivine.conversion.gguf_tower import ACTIVATIONS, Array, Linear, Norm, Tower, check_tower, tower_arrays
from olivine.errors import RequestError
from olivine.model.vlm import VisionLanguageModel

#: Where llama.cpp's LLaVA graph has the class token: behind the patches since 2025, before them earlier.
ClassOrder = Literal["last", "first"]


def vision_file(
    vlm: VisionLanguageModel,
    images: list[Image.Image],
    name: str,
    *,
    class_order: ClassOrder = "last",
) -> GgufFile:
    """Return the mmproj file of a model.

    Args:
        vlm: the model.
        images: a few, from which the sizes of hidden states are taken where the class token must be worked around.
        name: what llama.cpp shows.
        class_order: where the graph of the llama.cpp that will run it has the class token.

    Raises:
        RequestError: llama.cpp cannot hold tower, connector or image fit.
    """
    check_vision(vlm)
    tower = tower_arrays(vlm)
    own, read = tower.width, 1.0
    if tower.class_row is not None and class_order == "last":
        spread, largest = _sizes(vlm, tower, images)
        tower = moved_by_one(tower, spread, largest)
        read = CARRIED
    projector = {key: as_arrays({"w": tensor})["w"] for key, tensor in vlm.connector.state_dict().items()}
    scale = image_scale(vlm.language.config)
    first = np.zeros((projector["linear_1.weight"].shape[0], tower.width), np.float32)
    first[:, :own] = projector["linear_1.weight"] / read
    tensors = _tower_tensors(tower)
    tensors |= {
        "mm.0.weight": first,
        "mm.0.bias": projector["linear_1.bias"],
        "mm.2.weight": projector["linear_2.weight"] / np.float32(scale),
        "mm.2.bias": projector["linear_2.bias"] / np.float32(scale),
    }
    exact = {key for number in tower.exact_blocks for key in tensors if key.startswith(f"v.blk.{number}.")}

    def fields(writer: Any) -> None:
        _add_sizes(writer, vlm, tower, name)

    return GgufFile("clip", tensors, fields, frozenset({*exact, "mm.0.weight"} if exact else ()))


def check_vision(vlm: VisionLanguageModel) -> None:
    """Refuse a model of which llama.cpp cannot hold tower, connector or image fit.

    Raises:
        RequestError: the message names it.
    """
    check_tower(vlm.model.config)
    config, transform = vlm.model.config, vlm.transform
    if config.model_type != "llava":
        raise RequestError(
            f"--to gguf: the connector is {_connector(config)}; llama.cpp's LLaVA projector is an MLP of depth 2."
        )
    if config.projector_hidden_act != "gelu":
        raise RequestError(
            f"--to gguf: the connector's activation is {config.projector_hidden_act!r} (a single layer, if linear); "
            "llama.cpp's LLaVA projector is two layers with GELU between."
        )
    if transform.fit not in ("pad", "letterbox"):
        raise RequestError(
            f"--to gguf: image_fit {transform.fit!r}: llama.cpp pads images to a square for LLaVA and "
            f"cannot {transform.fit}. Train with image_fit: pad, or export --to transformers."
        )
    if transform.resample != "bicubic":
        raise RequestError(f"--to gguf: images are resized {transform.resample}; llama.cpp resizes bicubic for LLaVA.")


def _connector(config: Any) -> str:
    described = getattr(config, "connector", None)
    return f"of kind {described['kind']!r}" if described else f"an MLP of depth {config.projector_depth}"


@torch.no_grad()
def _sizes(vlm: VisionLanguageModel, tower: Tower, images: list[Image.Image]) -> tuple[Array, float]:
    """Return each token's least and largest standard deviation before the pre-norm, and the largest norm.

    Plain images and noise are looked at beside those given.
    """
    assert tower.class_row is not None
    device = next(vlm.tower.parameters()).device
    side = vlm.transform.size
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    plain = [Image.new("RGB", (side, side), (level,) * 3) for level in (0, 128, 255)]
    pixels = torch.from_numpy(np.stack([vlm.transform(i) for i in (*images, *plain, Image.fromarray(noise))]))
    states = vlm.tower(pixels.to(device).float(), output_hidden_states=True).hidden_states
    largest = float(states[len(tower.blocks)].float().norm(dim=-1).max())
    patches = torch.nn.functional.conv2d(
        pixels,
        torch.from_numpy(tower.kernel),
        None if tower.patch_bias is None else torch.from_numpy(tower.patch_bias),
        stride=tower.patch,
    )
    embedded = patches.flatten(2).transpose(1, 2)
    first = torch.from_numpy(tower.class_row).expand(len(pixels), 1, -1)
    tokens = torch.cat([first, embedded], 1) + torch.from_numpy(tower.positions)
    spread = tokens.std(dim=-1, correction=0)
    return torch.stack([spread.amin(0), spread.amax(0)]).numpy(), largest


def _tower_tensors(tower: Tower) -> dict[str, Array]:
    made: dict[str, Array | None] = {
        "v.patch_embd.weight": tower.kernel,
        "v.patch_embd.bias": tower.patch_bias,
        "v.class_embd": tower.class_row,
        "v.position_embd.weight": tower.positions,
    }
    if tower.pre_norm is not None:
        made |= {"v.pre_ln.weight": tower.pre_norm.weight, "v.pre_ln.bias": tower.pre_norm.bias}
    for number, block in enumerate(tower.blocks):
        parts: dict[str, Linear | Norm] = {
            "ln1": block.before_attention,
            "attn_q": block.query,
            "attn_k": block.key,
            "attn_v": block.value,
            "attn_out": block.out,
            "ln2": block.before_mlp,
            "ffn_up": block.up,
            "ffn_down": block.down,
        }
        for name, part in parts.items():
            made[f"v.blk.{number}.{name}.weight"], made[f"v.blk.{number}.{name}.bias"] = part.weight, part.bias
    return {name: values for name, values in made.items() if values is not None}


def _add_sizes(writer: Any, vlm: VisionLanguageModel, tower: Tower, name: str) -> None:
    writer.add_name(name)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(tower.image_size)
    writer.add_vision_patch_size(tower.patch)
    writer.add_vision_embedding_length(tower.width)
    writer.add_vision_feed_forward_length(tower.blocks[0].up.weight.shape[0])
    writer.add_vision_projection_dim(vlm.language.config.hidden_size)
    writer.add_vision_block_count(len(tower.blocks))
    writer.add_vision_head_count(tower.heads)
    writer.add_vision_attention_layernorm_eps(tower.eps)
    writer.add_vision_image_mean(list(vlm.transform.mean))
    writer.add_vision_image_std(list(vlm.transform.std))
    writer.add_vision_use_gelu(ACTIVATIONS[tower.activation])
    writer.add_array("clip.vision.feature_layer", [len(tower.blocks)])
