"""Many small tensors to a device in one copy, without waiting for it.

What they are is in `packing`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Each tensor starts at a multiple of this many bytes: enough for any dtype, and for vectorised loads.
_ALIGNMENT = 16


def send(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return the same tensors on a device; except to the CPU, they are sent as one buffer, page-locked for CUDA.

    Args:
        tensors: contiguous, on the CPU.
        device: the target.
    """
    if device.type == "cpu":
        return list(tensors)
    return unpacked(packed_bytes(tensors, pinned=device.type == "cuda").to(device, non_blocking=True), tensors)


def packed_bytes(tensors: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """Return the tensors' bytes one after another, each aligned to 16 bytes, as `[bytes]` uint8."""
    buffer = torch.empty(sum(map(_aligned_bytes, tensors)), dtype=torch.uint8, pin_memory=pinned)
    begin = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        buffer[begin : begin + size].copy_(tensor.flatten().view(torch.uint8))
        begin += _aligned_bytes(tensor)
    return buffer


def unpacked(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views into a buffer of `packed_bytes`, of the dtypes and shapes of `like`."""
    views, begin = [], 0
    for tensor in like:
        size = tensor.numel() * tensor.element_size()
        views.append(buffer[begin : begin + size].view(tensor.dtype).view(tensor.shape))
        begin += _aligned_bytes(tensor)
    return views


def _aligned_bytes(tensor: Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return -(-size // _ALIGNMENT) * _ALIGNMENT
