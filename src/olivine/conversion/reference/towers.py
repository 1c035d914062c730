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
    weights: RawWeights, model_type: str, values: Mapping[str, Any], layer: int, strategy: str, pixels: list[Tensor]
) -> list[Tensor]:
    """Return what the projector gets of each image, `[tokens, width]`.

    Args:
        weights: hold the tower.
        model_type: a key of `TOWERS`.
        values: its configuration as written.
        layer: which hidden state.
        strategy: "default" drops the first token.
        pixels: `[3, size, size]` each.
    """
    settings = {**_DEFAULTS[model_type], **values}
    at = weights.prefix("embeddings.patch_embedding.weight")
    states = [_embedded(weights, at, each) for each in pixels]
    eps = settings["layer_norm_eps"]
    if f"{at}pre_layrnorm.weight" in weights:
        states = [_norm(weights, f"{at}pre_layrnorm", each, eps) for each in states]
    blocks = sum(
        name.startswith(f"{at}encoder.layers.") and name.endswith("layer_norm1.weight") for name in weights.names
    )
    for number in range(layer if layer >= 0 else blocks + 1 + layer):
        states = _block(weights, f"{at}encoder.layers.{number}.", states, settings)
    return [each[1:] if strategy == "default" else each for each in states]


def project(weights: RawWeights, features: list[Tensor], activation: str) -> list[Tensor]:
    """Return features `[tokens, width]` in the language model's width: one linear layer, or two with a GELU."""
    if "model.mm_projector.weight" in weights:
        return [_linear(weights, "model.mm_projector", each) for each in features]
    named = any(name.endswith("mm_projector.0.weight") for name in weights.names)
    first, second = ("mm_projector.0", "mm_projector.2") if named else ("projector.linear_1", "projector.linear_2")
    opening, closing = (next(n for n in weights.names if n.endswith(f"{x}.weight"))[:-7] for x in (first, second))
    inner = [_linear(weights, opening, each) for each in features]
    return [_linear(weights, closing, activate(each, activation)) for each in inner]


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
    side = kernel.shape[-1]
    made = F.conv2d(pixels[None], kernel, weights.get(bias) if bias in weights else None, stride=side)[0]
    states = made.flatten(1).T
    if f"{at}embeddings.class_embedding" in weights:
        states = torch.cat([weights.get(f"{at}embeddings.class_embedding")[None], states])
    return states + weights.get(f"{at}embeddings.position_embedding.weight")


def _block(weights: RawWeights, at: str, states: list[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
    heads, eps = settings["num_attention_heads"], settings["layer_norm_eps"]
    made = []
    for each in states:
        normed = _norm(weights, f"{at}layer_norm1", each, eps)
        query, key, value = (
            _linear(weights, f"{at}self_attn.{name}_proj", normed).unflatten(-1, (heads, -1)).transpose(0, 1)
            for name in ("q", "k", "v")
        )
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        mixed = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
        after = each + _linear(weights, f"{at}self_attn.out_proj", mixed)
        inner = _linear(weights, f"{at}mlp.fc1", _norm(weights, f"{at}layer_norm2", after, eps))
        made.append(after + _linear(weights, f"{at}mlp.fc2", activate(inner, settings["hidden_act"])))
    return made


def _linear(weights: RawWeights, name: str, states: Tensor) -> Tensor:
    made = states @ weights.get(f"{name}.weight").T
    return made + weights.get(f"{name}.bias") if f"{name}.bias" in weights else made


def _norm(weights: RawWeights, name: str, states: Tensor, eps: float) -> Tensor:
    return F.layer_norm(states, states.shape[-1:], weights.get(f"{name}.weight"), weights.get(f"{name}.bias"), eps)
