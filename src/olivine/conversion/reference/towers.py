"""CLIP's and SigLIP's vision towers, written out, and LLaVA's projector."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from olivine.conversion.reference.raw_weights import RawWeights

#: What each type's configuration means where it leaves something out (transformers 4.36 to 4.57).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {"num_attention_heads": 12, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"},
    "siglip_vision_model": {"num_attention_heads": 12, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
}
TOWERS = tuple(_DEFAULTS)


def tower_features(
    weights: RawWeights, model_type: str, values: Mapping[str, Any], layer: int, strategy: str, pixels: Tensor
) -> Tensor:
    """Return what the projector gets of each image, `[images, tokens, width]`.

    Args:
        weights: hold the tower.
        model_type: a key of `TOWERS`.
        values: its configuration as written.
        layer: which hidden state.
        strategy: "default" drops the first token.
        pixels: `[images, 3, size, size]`.
    """
    settings = {**_DEFAULTS[model_type], **values}
    at = weights.prefix("embeddings.patch_embedding.weight")
    states = _embedded(weights, at, pixels)
    if f"{at}pre_layrnorm.weight" in weights:
        states = _norm(weights, f"{at}pre_layrnorm", states, settings["layer_norm_eps"])
    blocks = sum(name.startswith(f"{at}encoder.layers.") and name.endswith(".layer_norm1.weight") for name in weights)
    for number in range(layer if layer >= 0 else blocks + 1 + layer):
        states = _block(weights, f"{at}encoder.layers.{number}.", states, settings)
    return states[:, 1:] if strategy == "default" else states


def project(weights: RawWeights, features: Tensor, activation: str) -> Tensor:
    """Return features `[images, tokens, width]` in the language model's width, by one linear layer or two."""
    single = [name for name in weights if name.endswith("mm_projector.weight")]
    if single:
        return _linear(weights, single[0].removesuffix(".weight"), features)
    named = any(name.endswith("mm_projector.0.weight") for name in weights)
    endings = ("mm_projector.0", "mm_projector.2") if named else ("projector.linear_1", "projector.linear_2")
    first, second = (next(n for n in weights if n.endswith(f"{x}.weight")).removesuffix(".weight") for x in endings)
    return _linear(weights, second, activate(_linear(weights, first, features), activation))


def activate(states: Tensor, name: str) -> Tensor:
    """Return an activation by transformers' name for it."""
    if name == "quick_gelu":
        return states * torch.sigmoid(1.702 * states)
    if name in ("gelu", "gelu_python"):
        return states * 0.5 * (1 + torch.erf(states / 2**0.5))
    if name in ("gelu_pytorch_tanh", "gelu_new"):
        return 0.5 * states * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (states + 0.044715 * states**3)))
    if name in ("silu", "swish"):
        return states * torch.sigmoid(states)
    assert name == "linear", name
    return states


def _embedded(weights: RawWeights, at: str, pixels: Tensor) -> Tensor:
    kernel, bias = weights.get(f"{at}embeddings.patch_embedding.weight"), f"{at}embeddings.patch_embedding.bias"
    made = F.conv2d(pixels, kernel, weights.get(bias) if bias in weights else None, stride=kernel.shape[-1])
    states = made.flatten(2).transpose(1, 2)
    if f"{at}embeddings.class_embedding" in weights:
        first = weights.get(f"{at}embeddings.class_embedding").expand(len(states), 1, -1)
        states = torch.cat([first, states], dim=1)
    return states + weights.get(f"{at}embeddings.position_embedding.weight")


def _block(weights: RawWeights, at: str, states: Tensor, settings: Mapping[str, Any]) -> Tensor:
    heads, eps = settings["num_attention_heads"], settings["layer_norm_eps"]
    normed = _norm(weights, f"{at}layer_norm1", states, eps)
    query, key, value = (
        _linear(weights, f"{at}self_attn.{name}_proj", normed).unflatten(-1, (heads, -1)).transpose(1, 2)
        for name in ("q", "k", "v")
    )
    mixed = []
    for q, k, v in zip(query, key, value, strict=True):  # image by image: scores take memory
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        mixed.append((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    states = states + _linear(weights, f"{at}self_attn.out_proj", torch.stack(mixed))
    inner = activate(
        _linear(weights, f"{at}mlp.fc1", _norm(weights, f"{at}layer_norm2", states, eps)), settings["hidden_act"]
    )
    return states + _linear(weights, f"{at}mlp.fc2", inner)


def _linear(weights: RawWeights, name: str, states: Tensor) -> Tensor:
    made = states @ weights.get(f"{name}.weight").T
    return made + weights.get(f"{name}.bias") if f"{name}.bias" in weights else made


def _norm(weights: RawWeights, name: str, states: Tensor, eps: float) -> Tensor:
    return F.layer_norm(states, states.shape[-1:], weights.get(f"{name}.weight"), weights.get(f"{name}.bias"), eps)
