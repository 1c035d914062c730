"""Shared by tests of equal bits: detecting additions whose order depends on threads, and counting different results."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _SharedAdditions(TorchDispatchMode):
    """Collects additions by an index with duplicates, which are atomic with several threads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if "index_put" in name and (args[3] if len(args) > 3 else (kwargs or {}).get("accumulate")):
            where = [index for index in args[1] if index is not None]
            if where[0].dtype not in (torch.bool, torch.uint8):
                positions = torch.stack([index.flatten() for index in torch.broadcast_tensors(*where)], 1)
                if len(positions.unique(dim=0)) < len(positions):
                    self.found.append(f"{name} of {tuple(args[2].shape)}")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_shared_additions() -> Iterator[None]:
    with _SharedAdditions() as mode:
        yield
    assert not mode.found


def bits(*tensors) -> str:
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def different(compute, times: int = 25) -> int:
    """Return how many different results repeated calls give."""
    assert torch.get_num_threads() == 2
    return len({compute() for _ in range(times)})
