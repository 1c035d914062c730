"""The published models that shipped recipes name: their configurations, and the same in a tiny size as whole folders.

Values are those of the hub's config.json and preprocessor_config.json; what these do not say is transformers' default.
"""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from olivine.random_state import RandomState
from olivine.testing import gemma_tokenizer, llama_tokenizer
from olivine.testing.tokenizers import chat_tokenizer

CLIP_STATISTICS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET_STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF_STATISTICS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
DINOV2_IMAGES = {**IMAGENET_STATISTICS, "crop_size": {"height": 224, "width": 224}, "resample": 3}
LLAMA_7B = {
    "model_type": "llama", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DINOV2_L = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 518,
    "patch_size": 14,
}

#: Hub id -> config.json.
CONFIGURATIONS = {
    "openai/clip-vit-large-patch14-336": {
        "model_type": "clip",
        "text_config": {"model_type": "clip_text_model", "hidden_size": 768, "num_attention_heads": 12},
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        },
    },
    "facebook/dinov2-giant": {
        "model_type": "dinov2", "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "mlp_ratio": 4,
        "image_size": 518, "patch_size": 14, "use_swiglu_ffn": True,
    },
    "facebook/dinov2-large": {"model_type": "dinov2", **DINOV2_L},
    "facebook/dinov2-with-registers-large": {
        "model_type": "dinov2_with_registers", "num_register_tokens": 4, **DINOV2_L,
    },
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model", "hidden_size": 1152, "num_attention_heads": 16},
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
            "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
        },
    },
    "google/siglip2-base-patch16-512": {
        "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model", "vocab_size": 256_000},
        "vision_config": {"model_type": "siglip_vision_model", "image_size": 512},
    },
    "lmsys/vicuna-7b-v1.5": {**LLAMA_7B, "pad_token_id": 0},
    "meta-llama/Llama-2-7b-hf": LLAMA_7B,
    "google/gemma-2b-it": {
        "model_type": "gemma", "vocab_size": 256_000, "hidden_size": 2048, "intermediate_size": 16_384,
        "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
    },
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 40_960, "tie_word_embeddings": True,
    },
    "google/gemma-3-270m-it": {
        "model_type": "gemma3_text", "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048,
        "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "query_pre_attn_scalar": 256, "sliding_window": 512, "max_position_embeddings": 32_768,
    },
}  # fmt: skip
#: Hub id -> preprocessor_config.json.
PREPROCESSORS = {
    "openai/clip-vit-large-patch14-336": {**CLIP_STATISTICS, "crop_size": 336, "resample": 3},
    "facebook/dinov2-giant": DINOV2_IMAGES,
    "facebook/dinov2-large": DINOV2_IMAGES,
    "facebook/dinov2-with-registers-large": DINOV2_IMAGES,
    "google/siglip-so400m-patch14-384": {**HALF_STATISTICS, "size": {"height": 384, "width": 384}, "resample": 3},
    "google/siglip2-base-patch16-512": {**HALF_STATISTICS, "size": {"height": 512, "width": 512}, "resample": 2},
}
_TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32,
}  # fmt: skip
_TINY_LANGUAGE = {"num_attention_heads": 4, "head_dim": 8, "query_pre_attn_scalar": 8, "max_position_embeddings": 2048}
_TOKENIZERS = {"llama": llama_tokenizer, "gemma": gemma_tokenizer, "gemma3_text": gemma_tokenizer}


def configuration_folder(name: str, parent: Path) -> Path:
    """Write what a plan needs of a published model: no weights, no tokenizer."""
    return _written(parent / "configurations" / name, CONFIGURATIONS[name], PREPROCESSORS.get(name))


def tiny_folder(name: str, parent: Path) -> Path:
    """Write a published model in a tiny size: narrow and shallow, with its own patches, images and file layout."""
    folder, config = parent / "tiny" / name, CONFIGURATIONS[name]
    if (folder / "config.json").is_file():
        return folder
    if "vision_config" in config:
        sections = {
            "vision_config": {**config["vision_config"], **_TINY},
            "text_config": {**config["text_config"], **_TINY, "vocab_size": 64},
        }
        _save(AutoModel, {"model_type": config["model_type"], **sections}, folder)
    elif name in PREPROCESSORS:
        _save(AutoModel, {**config, **_TINY}, folder)
    else:
        maker = _TOKENIZERS.get(config["model_type"], lambda: chat_tokenizer("chatml"))
        tokenizer = maker()
        heads = {"num_key_value_heads": min(config["num_key_value_heads"], 2)}
        ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        sizes = {**_TINY, **_TINY_LANGUAGE, **heads, "vocab_size": len(tokenizer), **ids}
        _save(AutoModelForCausalLM, {**config, **{k: v for k, v in sizes.items() if k != "projection_dim"}}, folder)
        tokenizer.save_pretrained(folder)
    if name in PREPROCESSORS:
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[name]))
    return folder


def _save(maker: type, values: dict, folder: Path) -> None:
    config = AutoConfig.for_model(**values)
    with RandomState(0).active(), torch.no_grad():
        maker.from_config(config).save_pretrained(folder)


def _written(folder: Path, config: dict, preprocessor: dict | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
