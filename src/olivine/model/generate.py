"""One question at a time through transformers' own `generate`: the plain way, for looking in during training.

It is also the reference that the answering engine in `evaluate` is tested against.
"""

from pathlib import Path

import torch
from PIL import Image

from olivine.data.images import open_image, upright_rgb
from olivine.model.vlm import VisionLanguageModel, stop_ids_of


@torch.no_grad()
def answer_one(
    vlm: VisionLanguageModel,
    text: str,
    image: Path | Image.Image | None,
    *,
    system: str | None = None,
    max_new_tokens: int = 64,
) -> str:
    """Greedy answer to one question about one image (or none), special tokens left out and stripped.

    Args:
        vlm: the model.
        text: the question.
        image: a file, an opened image, or None.
        system: what a system turn says; None is no such turn.
        max_new_tokens: where the answer is cut.

    Raises:
        DataError: the image cannot be read.
    """
    prefix, continuation = vlm.encoder().prompt(text, image is not None, system)
    ids = torch.tensor([prefix + continuation], device=vlm.device)
    # Left out rather than None: transformers 5.23 encodes whatever is given.
    inputs = {}
    if image is not None:
        dtype = next(vlm.tower.parameters()).dtype
        inputs["pixel_values"] = torch.from_numpy(
            vlm.transform(open_image(image) if isinstance(image, Path) else upright_rgb(image))
        )[None].to(vlm.device, dtype)
    out = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    tokens = out[0, ids.shape[1] :].tolist()
    if tokens and tokens[-1] in stop_ids_of(vlm.model.generation_config):
        tokens.pop()  # it need not be a special one, which decoding leaves out
    return vlm.decode(tokens).strip()
