"""Tiny random specimens of every supported family of language models, for conformance tests."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from olivine.model.build import build
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import ModelRecipe

#: The specimens' windows: any sample of a few words is longer.
WINDOW = 8
_SIZES: Mapping[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    # Wider than usual: with transformers' 0.02 so small a model's logits hardly differ from one another.
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def language_specimens() -> dict[str, dict[str, Any]]:
    """Return configurations by name: each family once, and once more where an option changes its attention.

    Each is what a recipe takes as `model.language.from`; a few thousand weights, 640 tokens.
    """
    heads = {"head_dim": 16}
    windowed = {"sliding_window": WINDOW}
    return {
        "gemma": _specimen("gemma", **heads | {"num_key_value_heads": 1}),
        # Caps far below the real 50 and 30: so small a model's scores would never come near them.
        "gemma2": _specimen(
            "gemma2", **heads, **windowed, attn_logit_softcapping=0.5, final_logit_softcapping=2.0,
            query_pre_attn_scalar=16,
        ),
        "gemma3": _specimen("gemma3_text", **heads, **windowed, query_pre_attn_scalar=16, sliding_window_pattern=2),
        "llama": _specimen("llama"),
        "mistral": _specimen("mistral", sliding_window=None),
        "mistral-window": _specimen("mistral", **windowed),
        "phi3": _specimen("phi3"),
        "phi3-window": _specimen("phi3", **windowed),
        "qwen2": _specimen("qwen2"),
        "qwen2-window": _specimen("qwen2", **windowed, use_sliding_window=True, max_window_layers=1),
        "qwen3": _specimen("qwen3", **heads),
        "smollm3": _specimen("smollm3", no_rope_layer_interval=2),
    }  # fmt: skip


def _specimen(model_type: str, **particular: Any) -> dict[str, Any]:
    return {**_SIZES, "model_type": model_type, **particular}


def tiny_language_vlm(language: Mapping[str, Any], *, seed: int = 1) -> VisionLanguageModel:
    """Return a tiny CLIP with a specimen behind it, with a tokenizer and a template in Gemma's manner.

    Args:
        language: a configuration, as `language_specimens` has them.
        seed: decides the weights.
    """
    from olivine.testing import CORPUS, tiny_model_recipe

    recipe = tiny_model_recipe().model_dump(by_alias=True)
    recipe["language"] = {"from": dict(language), "tokenizer": {"vocab_size": 640}, "template": "gemma"}
    vlm = build(ModelRecipe.model_validate(recipe), seed=seed, texts=lambda: CORPUS)
    strengthen(vlm.language)
    return vlm


@torch.no_grad()
def strengthen(backbone: nn.Module) -> None:
    """Multiply a random backbone's layers by two: with tied embeddings it would otherwise repeat its last token."""
    for name, weight in backbone.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            weight.mul_(2)
