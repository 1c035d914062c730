"""Images as LLaVA's own code (`mm_utils.process_images`) and CLIP's image processor fit them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
FITS = ("pad", "crop", "squash")


def pixels(
    image: Image.Image, fit: str, size: int, mean: tuple[float, ...], std: tuple[float, ...], resample: str
) -> Tensor:
    """Return an RGB image as `[3, size, size]`.

    Args:
        image: of any size.
        fit: one of `FITS`.
        size: side of the square.
        mean, std: of each channel, in [0, 1].
        resample: the filter.
    """
    if fit == "pad":
        image = _expand2square(image, (int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255)))
    if fit in ("pad", "crop"):
        image = _shortest_edge(image, size, _FILTERS[resample])
    else:
        image = image.resize((size, size), _FILTERS[resample])
    values = torch.from_numpy(np.array(image)).float().permute(2, 0, 1) / 255
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _expand2square(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), background)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _shortest_edge(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(size * long / short)
    image = image.resize((size, longer) if width <= height else (longer, size), resample)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
