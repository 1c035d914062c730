"""The plain forward pass, one conversation at a time, that packed sequences are compared with."""

import torch

from olivine.data.images import open_image


def pixels_of(vlm, image_folder, name):
    return torch.from_numpy(vlm.transform(open_image(image_folder / name)))[None]


def plain_logits(vlm, image_folder, tokens, image):
    """Return the logits of one conversation alone, by transformers' own forward pass."""
    ids = torch.tensor([tokens])
    pixels = pixels_of(vlm, image_folder, image) if image else None
    return vlm.model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0]


def assert_equal_logits(ours, theirs):
    """Compare to 1e-5 of the largest logit: fp32 sums taken in another order differ by that much."""
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
