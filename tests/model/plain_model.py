"""The model as anybody runs it, one conversation at a time: what packed sequences are compared with."""

import torch

from olivine.data.images import open_image


def pixels_of(vlm, image_folder, name):
    return torch.from_numpy(vlm.transform(open_image(image_folder / name)))[None]


def plain_logits(vlm, image_folder, tokens, image):
    """One conversation alone, the way anybody would run it."""
    ids = torch.tensor([tokens])
    pixels = pixels_of(vlm, image_folder, image) if image else None
    return vlm.model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0]


def assert_equal_logits(ours, theirs):
    """To 1e-5 of the largest logit: what fp32 leaves of sums taken in another order."""
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
