"""Samples that are read on demand: the common base of all sources that stay on disk.

Where they are read from is in `llava_samples`, `shards` and `huggingface`.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from olivine.records import Sample


class LazySamples(Sequence[Sample], ABC):
    """A sequence whose samples are read one by one; slicing reads none."""

    @abstractmethod
    def read(self, index: int, unread: Counter[str] | None = None) -> Sample:
        """Return the sample at an index from 0 to the last; `unread` counts keys of it that nothing reads.

        Raises:
            ItemError: what is wrong with it.
        """

    @property
    def unread(self) -> Counter[str]:
        """What nothing reads of the source as a whole, with the number of samples that have it."""
        return Counter()

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Return one sample, read now, or a slice, read later.

        Raises:
            ItemError: what is wrong with the one sample.
        """
        if isinstance(index, slice):
            return SelectedSamples(self, np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.read(index % len(self))


class SelectedSamples(LazySamples):
    """Some samples of a sequence, by their indices `[samples]` int64."""

    def __init__(self, samples: Sequence[Sample], indices: NDArray[np.int64]) -> None:
        self._samples, self._indices = samples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int, unread: Counter[str] | None = None) -> Sample:
        """Return one sample."""
        original = int(self._indices[index])
        return (
            self._samples.read(original, unread) if isinstance(self._samples, LazySamples) else self._samples[original]
        )
