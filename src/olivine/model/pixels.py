"""Images sent as bytes to the tower's device and normalised there: a quarter of the transfer of fp32.

Fitting an image to the tower's square is in `data.image_fit`.
"""

import torch
from torch import Tensor

from olivine.data.images import ImageTransform


def normalise_on(pixels: Tensor, transform: ImageTransform, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return fitted images as the tower's input on a device, `[images, 3, size, size]`.

    Every value is looked up in a table computed on the CPU, so that bits are the same on every device, and equal to
    `ImageTransform.normalise` cast to `dtype`.

    Args:
        pixels: `[images, size, size, 3]` uint8; if page-locked, copied without waiting.
        transform: the transform with the mean and standard deviation.
        device: the tower's.
        dtype: the tower's.
    """
    if device.type == "cpu":
        return torch.from_numpy(transform.normalise(pixels.numpy())).to(dtype)
    table = torch.from_numpy(transform.channel_values()).to(dtype).flatten()
    table = (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)
    return look_up(pixels.to(device, non_blocking=True), table)


def look_up(pixels: Tensor, table: Tensor) -> Tensor:
    """Return `[images, 3, size, size]` of `[images, size, size, 3]` uint8 and a table `[3 * 256]`."""
    channels = pixels.permute(0, 3, 1, 2)
    first = torch.arange(0, 3 * 256, 256, dtype=torch.int32, device=pixels.device)
    positions = channels.to(torch.int32) + first[:, None, None]
    return table.index_select(0, positions.flatten()).view(channels.shape)
