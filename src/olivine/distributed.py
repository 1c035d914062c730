"""The processes of one torchrun, or a single one: their ranks, and collectives over Python objects.

Sharding is in `training.sharding`, the distribution of questions in `evaluation.run`. torch is imported by the first
call that needs it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from olivine.accelerators import image_threads
from olivine.errors import OlivineError, OtherProcessError, RequestError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
#: How long one process waits for another, which may be saving or reading a large data set.
TIMEOUT = timedelta(minutes=60)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all of the run; every method is called by all of them, in the same order.

    Attributes:
        rank: the number of this process, from 0.
        world_size: the number of processes.
        local_rank: the number of this process on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return self.world_size > 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    @property
    def device(self) -> "torch.device":
        """The device that this process uses."""
        import torch

        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def readers(self) -> int:
        """Threads that open images: one next to a model on the CPU, which needs the cores; more with a GPU."""
        return image_threads()

    def total(self, values: Sequence[float]) -> list[float]:
        """Return each value summed over all processes, exact for counts below 2**53."""
        if not self.several:
            return list(values)
        import torch
        import torch.distributed as dist

        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return [float(value) for value in summed]

    def from_first(self, value: T) -> T:
        """Return the first process's value; the others may pass anything."""
        return self._broadcast([value])[0]

    def run_on_first(self, work: Callable[[], T]) -> T:
        """Call `work` on the first process only, and return its result on all.

        Raises:
            OlivineError: as raised by `work`, in the first process.
            OtherProcessError: in the others, with the same exit code; the first reports the message.
        """
        if not self.several:
            return work()
        outcome: list[Any] = [None, None]
        error: OlivineError | None = None
        if self.is_first:
            try:
                outcome[0] = work()
            except OlivineError as raised:
                error, outcome[1] = raised, raised.exit_code
        outcome = self._broadcast(outcome)
        if error is not None:
            raise error
        if outcome[1] is not None:
            raise OtherProcessError(outcome[1])
        result: T = outcome[0]
        return result

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in rank order; waits for all."""
        if not self.several:
            return [value]
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def union(self, values: Sequence[T]) -> list[T]:
        """Return all processes' values in one list, in rank order."""
        return [value for some in self.gather(list(values)) for value in some]

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.total([0.0])

    def _broadcast(self, values: list[Any]) -> list[Any]:
        if self.several:
            import torch
            import torch.distributed as dist

            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values


def is_first_process() -> bool:
    """Return whether this process is the one that prints, known before the process group exists."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def init_distributed(*, timeout: timedelta = TIMEOUT, gpu_tensors: bool = True) -> Iterator[Processes]:
    """Join the process group that torchrun started, if any, and leave it at the end of the block.

    Objects and checkpoints go over gloo on the CPU, tensors of a training step over nccl if there are GPUs.

    Args:
        timeout: how long one process waits for another.
        gpu_tensors: whether tensors on GPUs are exchanged, for which each process uses its own GPU.

    Raises:
        RequestError: WORLD_SIZE is set, but the processes cannot connect to each other.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes()
        return
    import torch.distributed as dist

    if "RANK" not in os.environ:
        raise RequestError(f"WORLD_SIZE is {world_size}, but RANK is not set. {_TORCHRUN}")
    processes = Processes(int(os.environ["RANK"]), world_size, int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group(_backend(processes, gpu_tensors=gpu_tensors), timeout=timeout)
    except (ValueError, RuntimeError) as error:
        raise RequestError(
            f"WORLD_SIZE is {world_size}, but the processes do not find each other ({error}). {_TORCHRUN}"
        ) from None
    try:
        yield processes
    finally:
        dist.destroy_process_group()


_TORCHRUN = (
    "Start them with torchrun: python -m torch.distributed.run --nproc-per-node N -m olivine train (or evaluate) ..."
)


def _backend(processes: Processes, *, gpu_tensors: bool) -> str:
    import torch

    if not (gpu_tensors and torch.cuda.is_available()):
        return "gloo"
    torch.cuda.set_device(processes.local_rank)
    return "cpu:gloo,cuda:nccl"
