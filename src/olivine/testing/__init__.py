"""Tiny models, tokenizers and data sets for tests: Olivine's own, and those of packages built on it.

Everything is made from a seed; nothing is read from the network or from outside the given folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaTokenizer,
)

from olivine.data.vocabulary import train_tokenizer
from olivine.model.build import build
from olivine.model.vlm import VisionLanguageModel
from olivine.random_state import RandomState
from olivine.recipe import ModelRecipe

CORPUS = (
    "what color is the shape?",
    "is there a red circle in the image?",
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "USER: ASSISTANT: model user",
)


def gemma_tokenizer(vocab_size: int = 640) -> Any:
    """Train a small tokenizer in Gemma's layout."""
    return train_tokenizer(CORPUS, vocab_size)


def llama_tokenizer(*, legacy: bool = False) -> Any:
    """Build a small tokenizer like Llama's: a space is prepended to the text (to every piece of it, if `legacy`)."""
    trained = json.loads(gemma_tokenizer().backend_tokenizer.to_str())["model"]
    pieces = [p for p in trained["vocab"] if not (p.startswith("<") and p.endswith(">") and not p.startswith("<0x"))]
    vocab = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", *pieces])}
    merges = [tuple(pair) for pair in trained["merges"]]
    return LlamaTokenizer(vocab=vocab, merges=merges, legacy=legacy, add_bos_token=True, pad_token="<unk>")  # noqa: S106


def tiny_model_recipe(
    *,
    tower: Literal["clip", "dinov2"] = "clip",
    language: Literal["gemma", "llama"] = "gemma",
    depth: int = 2,
    tokenizer: Any = None,
    **vision: Any,
) -> ModelRecipe:
    """Return a recipe of random towers and language models of a few thousand weights; `tokenizer` as in a recipe."""
    towers = {
        "clip": {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "image_size": 16},
        "dinov2": {"model_type": "dinov2", "hidden_size": 32, "mlp_ratio": 2, "image_size": 24},
    }
    tower_config = {**towers[tower], "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    language_config = {
        "model_type": language,
        "vocab_size": 640,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1 if language == "gemma" else 2,
        "head_dim": 16 if language == "gemma" else 8,
        # Wider than usual: with transformers' 0.02 the logits of such a small model hardly differ.
        "initializer_range": 0.2,
    }
    return ModelRecipe.model_validate(
        {
            "vision": {"from": tower_config, "image_size": 16, **vision},
            "language": {"from": language_config, "tokenizer": tokenizer or {"vocab_size": 640}},
            "connector": {"depth": depth},
        }
    )


def tiny_vlm(
    *,
    tower: Literal["clip", "dinov2"] = "clip",
    language: Literal["gemma", "llama"] = "gemma",
    depth: int = 2,
    seed: int = 0,
    folder: Path | None = None,
    **vision: Any,
) -> VisionLanguageModel:
    """Build a whole tiny model; a Llama needs a `folder` for its tokenizer."""
    tokenizer = None
    if language == "llama":
        assert folder is not None, "a Llama's tokenizer is loaded from a folder"
        llama_tokenizer().save_pretrained(folder)
        tokenizer = str(folder)
    recipe = tiny_model_recipe(tower=tower, language=language, depth=depth, tokenizer=tokenizer, **vision)
    vlm = build(recipe, seed=seed, texts=lambda: CORPUS)
    if language == "gemma":
        # With tied and scaled embeddings a random Gemma repeats its last token; stronger layers make its answers vary.
        with torch.no_grad():
            for name, weight in vlm.part("language").items():
                if weight.ndim == 2 and "embed" not in name:
                    weight.mul_(2)
    return vlm


def save_tower(folder: Path, *, tower: Literal["clip", "dinov2"] = "clip", seed: int = 0) -> Path:
    """Save a random vision tower (6 x 6 patches of 4 pixels) with its preprocessor file, like a published one."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 24, "patch_size": 4}
    with RandomState(seed).active():
        if tower == "clip":
            CLIPVisionModel(CLIPVisionConfig(intermediate_size=256, **sizes)).save_pretrained(folder)
        else:
            Dinov2Model(Dinov2Config(mlp_ratio=2, **sizes)).save_pretrained(folder)
    square = {"height": 24, "width": 24}
    CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=square).save_pretrained(folder)
    return folder


def save_language_model(folder: Path, *, seed: int = 0) -> Path:
    """Save a random Gemma of two layers (`[tokens, 64]`, tied embeddings) with its tokenizer, like a published one."""
    tokenizer = gemma_tokenizer()
    config = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with RandomState(seed).active():
        GemmaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int, *, side: int = 16, seed: int = 0) -> list[str]:
    """Write random PNG images of different sizes; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    names = []
    for number in range(count):
        shape = (side + number % 3 * 4, side + number % 2 * 6, 3)
        name = f"{number}.png"
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
        names.append(name)
    return names


def llava_item(identity: str, pairs: Sequence[tuple[str, str]], image: str | None = None) -> dict[str, Any]:
    """Return one item of LLaVA JSON: questions with replies, with or without an image."""
    turns = []
    for number, (question, reply) in enumerate(pairs):
        mark = "<image>\n" if image is not None and number == 0 else ""
        turns += [{"from": "human", "value": mark + question}, {"from": "gpt", "value": reply}]
    return {"id": identity, **({"image": image} if image is not None else {}), "conversations": turns}


def write_dataset(folder: Path, *, items: int = 24, seed: int = 0) -> Path:
    """Write a LLaVA JSON of `items` items, images under images/: one to three questions each, every fifth text-only."""
    names = write_images(folder / "images", max(1, items // 2), seed=seed)
    samples = []
    for number in range(items):
        pairs = [
            (f"is there a red circle? {turn}", "yes" if (number + turn) % 2 else "no") for turn in range(1 + number % 3)
        ]
        samples.append(llava_item(f"s{number}", pairs, None if number % 5 == 4 else names[number % len(names)]))
    path = folder / "train.json"
    path.write_text(json.dumps(samples), encoding="utf-8")
    return path
