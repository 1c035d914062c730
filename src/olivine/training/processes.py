"""The processes of one run under torchrun, or the single one: their ranks, and the small messages they exchange.

What is sharded over them is in `sharding`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from olivine.accelerators import image_threads

T = TypeVar("T")
#: How long one process waits for another, which may be saving or reading a large data set.
_TIMEOUT = timedelta(minutes=60)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all of the run; every method is called by all of them, in the same order."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return self.world > 1

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The device that this process uses."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def readers(self) -> int:
        """Threads that open images: one next to a model on the CPU, which needs the cores; more with a GPU."""
        return image_threads()

    def total(self, values: Sequence[float]) -> list[float]:
        """Return each value summed over all processes, exact for counts below 2**53."""
        if not self.several:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return [float(value) for value in summed]

    def from_first(self, value: T) -> T:
        """Return the first process's value; the others may pass anything."""
        if not self.several:
            return value
        shared = [value]
        dist.broadcast_object_list(shared, src=0, device=torch.device("cpu"))
        return shared[0]

    def union(self, values: Sequence[T]) -> list[T]:
        """Return all processes' values, in rank order."""
        if not self.several:
            return list(values)
        gathered: list[Sequence[T]] = [[] for _ in range(self.world)]
        dist.all_gather_object(gathered, list(values))
        return [value for some in gathered for value in some]

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.total([0.0])


def is_first() -> bool:
    """Return whether this process is the one that prints, known before the process group exists."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def init_distributed() -> Iterator[Processes]:
    """Join the process group that torchrun started, if any, and leave it at the end of the block.

    Small messages and checkpoints go over gloo on the CPU, tensors of the training step over nccl where there are GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    processes = Processes(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    if torch.cuda.is_available():
        torch.cuda.set_device(processes.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)
    try:
        yield processes
    finally:
        dist.destroy_process_group()
