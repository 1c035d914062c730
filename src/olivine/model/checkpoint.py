"""Whole models to and from disk: a plain transformers LLaVA folder, with processor, chat template and stop tokens.

Training state for resuming is in `train`.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)

from olivine import __version__
from olivine.data.images import ImageTransform
from olivine.errors import RequestError
from olivine.files import atomic_folder, read_json, write_json
from olivine.model import connector as _registers_deep_connectors  # noqa: F401
from olivine.model import without_progress_bars
from olivine.model.processor import finish_configs, processor
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
    saved_processor = processor(vlm, transform)  # first: it may give the model a pad token
    with atomic_folder(folder) as temporary, without_progress_bars():
        vlm.model.save_pretrained(temporary, state_dict=weights)
        saved_processor.save_pretrained(temporary)
        finish_configs(temporary)
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
