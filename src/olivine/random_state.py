"""torch's random numbers for one piece of work: its own sequence, with the caller's state unchanged.

Random numbers of numpy and `random` come from generators that are passed to the functions that draw them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CPU = torch.device("cpu")


class RandomState:
    """A sequence of random numbers, drawn through torch's global generators while it is active.

    The numbers are those that `torch.manual_seed(seed)` would give from then on. Modules draw their first weights and
    dropout from the global generators, which take no other.

    Args:
        seed: decides the sequence.
        device: whose generator is taken beside the CPU's.
    """

    def __init__(self, seed: int, device: torch.device = _CPU) -> None:
        self._gpus = [device] if device.type == "cuda" else []
        self._states = [torch.Generator(place).manual_seed(seed).get_state() for place in (_CPU, *self._gpus)]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this sequence inside the block, from where the last such block left it."""
        with torch.random.fork_rng(devices=self._gpus):
            torch.set_rng_state(self._states[0])
            for gpu, state in zip(self._gpus, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, gpu)
            try:
                yield
            finally:
                self._states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in self._gpus)]
