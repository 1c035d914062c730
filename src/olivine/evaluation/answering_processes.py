"""The processes of one torchrun, as an evaluation uses them: rank, gathering, and work done by the first for all.

No tensors are exchanged, so gloo works with and without GPUs; the distribution of questions is in `run`.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from olivine.errors import OlivineError, RequestError

_Result = TypeVar("_Result")

#: Processes take unequal time for their questions; if one dies, torchrun itself ends the others.
_LONGEST_WAIT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's `rank` among all `size` processes."""

    rank: int = 0
    size: int = 1

    def gather(self, mine: _Result) -> list[_Result]:
        """Return every process's value, in order of rank; wait for all of them."""
        if self.size == 1:
            return [mine]
        of_all: list[Any] = [None] * self.size
        dist.all_gather_object(of_all, mine)
        return of_all

    def first(self, work: Callable[[], _Result]) -> _Result:
        """Run `work` in the first process alone and return its result in all of them.

        If it raises an `OlivineError`, the other processes exit with its exit code; only the first one reports it.
        """
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        error: OlivineError | None = None
        if self.rank == 0:
            try:
                outcome[0] = work()
            except OlivineError as raised:
                error, outcome[1] = raised, raised.exit_code
        dist.broadcast_object_list(outcome, src=0)
        if error is not None:
            raise error
        if outcome[1] is not None:
            sys.exit(outcome[1])
        result: _Result = outcome[0]
        return result


#: A process without others.
ALONE = Processes()


@contextmanager
def init_distributed() -> Iterator[Processes]:
    """Join the other processes of this torchrun inside the block; without torchrun there is only this process.

    Raises:
        RequestError: RANK and WORLD_SIZE are set, but the processes cannot connect.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    try:
        dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
    except (ValueError, RuntimeError) as error:
        raise RequestError(
            f"WORLD_SIZE is {size}, but the processes cannot connect ({error}). Start them with torchrun: "
            "python -m torch.distributed.run --nproc-per-node N -m olivine evaluate ..."
        ) from None
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
