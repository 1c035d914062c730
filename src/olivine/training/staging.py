"""Staging of a training checkpoint's tensors in host memory while they are written alongside the next steps.

What is written, and when, is in `training_checkpoints`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.staging import AsyncStager, DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor

_MEMORY = Path("/proc/meminfo")
#: Pinned memory cannot be paged out: at most this share of the machine's free memory is pinned.
_PINNED_SHARE = 0.5


class Staging:
    """Buffers for a state's tensors, allocated once and filled again for every checkpoint.

    GPU tensors are copied into pinned memory, which is several times as fast as pageable memory.
    """

    def __init__(self) -> None:
        self._stager: AsyncStager | None = None

    def stager(self, tensors: Mapping[str, Tensor]) -> AsyncStager:
        """Return the stager that copies these tensors; the first call decides whether its memory is pinned."""
        if self._stager is None:
            on_gpu = torch.cuda.is_available() and any(tensor.is_cuda for tensor in tensors.values())
            options = StagingOptions(
                use_pinned_memory=on_gpu and _may_pin(tensors),
                use_shared_memory=False,
                # The training step may change the tensors as soon as `save` returns.
                use_async_staging=False,
                use_non_blocking_copy=on_gpu,
            )
            self._stager = DefaultStager(options)
        return self._stager

    def close(self) -> None:
        """Free the memory."""
        if self._stager is not None:
            self._stager.close()
            self._stager = None


def _may_pin(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether pinning copies of all tensors leaves the machine enough memory; unknown counts as no."""
    needed = sum(_local(tensor).nbytes for tensor in tensors.values())
    free = available_memory()
    return free is not None and needed <= _PINNED_SHARE * free


def available_memory(file: Path = _MEMORY) -> int | None:
    """Return the bytes that the machine can still allocate without swapping; None if the system does not say."""
    try:
        for line in file.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
