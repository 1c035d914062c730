"""A LLaVA folder answered by plain transformers as it is, without anything of Olivine's between."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText

import olivine.model.registered  # noqa: F401  # before any folder is read
from olivine.model import quiet_loading
from olivine.model.configuration import folder_config, understood
from olivine.model.weights import load_weights, tensors_in, whole_naming


def plain_logits(folder: Path, prompts: Sequence[Sequence[int]], pixels: Sequence[Tensor]) -> tuple[list[Tensor], str]:
    """Return the logits `[vocabulary]` of the token behind each prompt in fp32, and the runtime's name.

    Args:
        folder: a folder in transformers' layout.
        prompts: token ids with the image placeholder once for each feature.
        pixels: `[1, 3, size, size]` each.

    Raises:
        RequestError: it cannot be loaded.
    """
    with quiet_loading():
        model = understood(
            lambda: AutoModelForImageTextToText.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
            ),
            f"FOLDER: {folder}",
        )
    return _logits(model, prompts, pixels), f"transformers {transformers.__version__}, the folder as it is"


def checked_logits(folder: Path, prompts: Sequence[Sequence[int]], pixels: Sequence[Tensor], key: str) -> list[Tensor]:
    """Return the same of a folder whose weights are required to be complete and finite.

    Raises:
        RequestError: weights are missing, unexpected, of another shape or not finite; the message begins with `key`.
    """
    config = folder_config(folder, key)
    naming = whole_naming(config, tensors_in(folder, key))
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    model = load_weights(model_class, folder, config, naming, key=key, dtype=torch.float32)
    return _logits(model, prompts, pixels)


@torch.no_grad()
def _logits(model: Any, prompts: Sequence[Sequence[int]], pixels: Sequence[Tensor]) -> list[Tensor]:
    model.eval()
    made = []
    for ids, image in zip(prompts, pixels, strict=True):
        tokens = torch.tensor([list(ids)])
        out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), pixel_values=image, logits_to_keep=1)
        made.append(out.logits[0, -1].float())
    return made
