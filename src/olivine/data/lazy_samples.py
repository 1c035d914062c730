"""Samples that are read when they are asked for: what all sources that stay on disk have in common.

Where they are read from is in `shards` and `huggingface`.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from olivine.records import Sample


class LazySamples(Sequence[Sample], ABC):
    """A sequence whose samples are read one by one; a slice of it reads none."""

    @abstractmethod
    def read(self, index: int, unread: Counter[str] | None = None) -> Sample:
        """The sample at an index from 0 to the last; `unread` counts keys of it that nothing reads.

        Raises:
            ItemError: what is wrong with it.
        """

    @property
    def unread(self) -> Counter[str]:
        """What of the source as a whole nothing reads, and how many samples have it."""
        return Counter()

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """One sample, read now, or some, read later.

        Raises:
            ItemError: what is wrong with the one.
        """
        if isinstance(index, slice):
            return SelectedSamples(self, np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.read(index % len(self))


class SelectedSamples(LazySamples):
    """Some samples of a sequence, by their places `[samples]` int64."""

    def __init__(self, samples: Sequence[Sample], positions: NDArray[np.int64]) -> None:
        self._samples, self._positions = samples, positions

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, index: int, unread: Counter[str] | None = None) -> Sample:
        """One sample."""
        position = int(self._positions[index])
        return (
            self._samples.read(position, unread) if isinstance(self._samples, LazySamples) else self._samples[position]
        )
