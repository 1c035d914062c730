"""A LLaVA folder answered by plain transformers as it is, without anything of Olivine's between."""

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForImageTextToText

import olivine.model.registered  # noqa: F401  # before any folder is read
from olivine.model import quiet_loading
from olivine.model.configuration import understood


@torch.no_grad()
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
        ).eval()
    logits = []
    for ids, image in zip(prompts, pixels, strict=True):
        tokens = torch.tensor([list(ids)])
        out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), pixel_values=image, logits_to_keep=1)
        logits.append(out.logits[0, -1].float())
    return logits, f"transformers {transformers.__version__}, the folder as it is"
