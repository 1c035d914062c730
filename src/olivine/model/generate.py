"""One question at a time through transformers' own `generate`: for answers shown during training.

It is also the reference that the answering engine in `evaluation` is tested against.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from olivine.data.image_marks import user_turn
from olivine.data.images import open_image, upright_rgb
from olivine.model.vlm import VisionLanguageModel, stop_ids_of
from olivine.records import Turn


@torch.no_grad()
def answer_one(
    vlm: VisionLanguageModel,
    text: str | Turn,
    image: Path | Image.Image | Sequence[Path | Image.Image] | None,
    *,
    system: str | None = None,
    max_new_tokens: int = 64,
) -> str:
    """Return the greedy answer to one question about its images (or none), without special tokens, stripped.

    Args:
        vlm: the model.
        text: the question; a user's turn may say where its images are.
        image: a file, an opened image, several of them in the order of their marks, or None. If the question does
            not say where they are, all come first.
        system: the text of a system turn; None for none.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        DataError: an image cannot be read, or the question does not have as many marks as images.
    """
    images = [] if image is None else [image] if isinstance(image, Path | Image.Image) else list(image)
    if isinstance(text, str) and len(images) > 1:
        text = user_turn(text, len(images))
    marked = isinstance(text, Turn) and bool(text.images)
    prefix, continuation = vlm.encoder().prompt(text, bool(images) and not marked, system)
    ids = torch.tensor([prefix + continuation], device=vlm.device)
    # Omitted rather than None: transformers 5.23 encodes whatever is given.
    inputs = {}
    if images:
        dtype = next(vlm.tower.parameters()).dtype
        opened = [open_image(one) if isinstance(one, Path) else upright_rgb(one) for one in images]
        pixels = np.stack([vlm.transform(one) for one in opened])
        inputs["pixel_values"] = torch.from_numpy(pixels).to(vlm.device, dtype)
    out = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    tokens = out[0, ids.shape[1] :].tolist()
    if tokens and tokens[-1] in stop_ids_of(vlm.model.generation_config):
        tokens.pop()  # it may not be a special token, which decoding would skip
    return vlm.decode(tokens).strip()
