"""Whole models to and from disk: a plain transformers LLaVA folder, with processor, chat template and stop tokens.

Training state for resuming is in `train`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

from olivine import __version__
from olivine.data.images import ImageTransform
from olivine.data.template import TEMPLATES
from olivine.errors import RequestError
from olivine.files import atomic_folder, read_json, write_json
from olivine.model import connector as _registers_deep_connectors  # noqa: F401
from olivine.model import without_progress_bars
from olivine.model.vlm import VisionLanguageModel

#: Beside transformers' own files: what they have no place for.
COMPANION = "olivine.json"


def save(
    vlm: VisionLanguageModel,
    folder: Path,
    *,
    transform: ImageTransform | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a folder that `LlavaForConditionalGeneration` and `AutoProcessor` load as it is.

    `transform` is the one to use at inference; None takes the model's own. Weights keep their dtype; `weights`
    is the whole model's state where `vlm` holds only a part of it. The folder appears whole or not at all.
    """
    transform = transform or vlm.transform
    with atomic_folder(folder) as temporary, without_progress_bars():
        vlm.model.save_pretrained(temporary, state_dict=weights)
        _processor(vlm, transform).save_pretrained(temporary)
        companion = {
            "olivine": __version__,
            "template": vlm.template,
            "image": {
                "size": transform.size,
                "fit": transform.fit,
                "mean": list(transform.mean),
                "std": list(transform.std),
            },
        }
        write_json(temporary / COMPANION, companion)


def load(folder: Path, *, to_train: bool = False) -> VisionLanguageModel:
    """Read a folder that `save` wrote, with weights in the dtype they were saved in.

    `to_train` reads by way of fp32: transformers makes Gemma's embedding scale in the dtype it loads, and training on
    from bf16 weights must not go on with a rounded one.

    Raises:
        RequestError: no such folder, or not one of Olivine's.
    """
    if not (folder / COMPANION).is_file():
        raise RequestError(
            f"{folder}: no checkpoint of Olivine's (a folder with config.json, weights and {COMPANION}). "
            "Give the checkpoint folder of a stage, or the run directory."
        )
    companion = read_json(folder / COMPANION)
    with without_progress_bars():
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32 if to_train else "auto")
    model.generation_config = GenerationConfig.from_pretrained(folder)
    image = companion["image"]
    transform = ImageTransform(image["size"], image["fit"], tuple(image["mean"]), tuple(image["std"]))
    vlm = VisionLanguageModel(
        model=model.eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        transform=transform,
        template=companion["template"],
        image_tokens=model.config.image_seq_length,
    )
    if to_train:
        vlm.cast(getattr(torch, read_json(folder / "config.json")["dtype"]))
    return vlm


def _processor(vlm: VisionLanguageModel, transform: ImageTransform) -> Any:
    """The transformers processor that does what training did."""
    patch_size = vlm.model.config.vision_config.patch_size
    return LlavaProcessor(
        image_processor=image_processor(transform),
        tokenizer=vlm.tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy=vlm.model.config.vision_feature_select_strategy,
        # One: the class token, which the strategy then drops.
        num_additional_image_tokens=1,
        chat_template=_chat_template(vlm),
    )


def image_processor(transform: ImageTransform) -> Any:
    """The transformers image processor for a transform (letterbox: padded first, so edge pixels differ slightly)."""
    square = {"height": transform.size, "width": transform.size}
    common: dict[str, Any] = {
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
        "crop_size": square,
        "resample": 3,
    }
    if transform.fit == "squash":
        return CLIPImageProcessorPil(size=square, do_center_crop=False, **common)
    shortest = {"shortest_edge": transform.size}
    if transform.fit == "crop":
        return CLIPImageProcessorPil(size=shortest, **common)
    return LlavaImageProcessorPil(size=shortest, do_pad=True, **common)


def _chat_template(vlm: VisionLanguageModel) -> str:
    """The template's Jinja form; it opens with the beginning of sequence only if the tokenizer does not add it.

    With Gemma's own chat template and a tokenizer that adds `<bos>`, the documented two-step use gives two of them.
    """
    jinja = TEMPLATES[vlm.template].jinja
    adds = vlm.tokenizer("a").input_ids[:1] == [vlm.tokenizer.bos_token_id]
    return jinja if adds else "{{ bos_token }}" + jinja
