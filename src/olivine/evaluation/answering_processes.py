"""The processes of one torchrun, as an evaluation sees them: who one is, what all know, what one does for all.

No tensor is exchanged, so gloo serves with and without GPUs; which questions are whose is in `run`.
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

#: Shares of questions take unequal time; torchrun itself ends the others when one process dies.
_LONGEST_WAIT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among all of them: `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def gather(self, mine: _Result) -> list[_Result]:
        """What every process has, in order of rank; waits for all."""
        if self.size == 1:
            return [mine]
        of_all: list[Any] = [None] * self.size
        dist.all_gather_object(of_all, mine)
        return of_all

    def first(self, work: Callable[[], _Result]) -> _Result:
        """What `work` returns, done by the first process alone and known to all.

        If it raises an `OlivineError` there, the others end with its exit code and leave the telling to the first.
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
    """Join the other processes of this torchrun inside the block; without torchrun there is one alone.

    Raises:
        RequestError: RANK and WORLD_SIZE are set, but the processes do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    try:
        dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
    except (ValueError, RuntimeError) as error:
        raise RequestError(
            f"WORLD_SIZE is {size}, but the processes do not find each other ({error}). Start them with torchrun: "
            "python -m torch.distributed.run --nproc-per-node N -m olivine evaluate ..."
        ) from None
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
