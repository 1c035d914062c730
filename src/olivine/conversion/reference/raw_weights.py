"""Tensors of files by the names that they have there, each read when it is asked for, in fp32."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from olivine.errors import RunError
from olivine.model.pickled import pickled_tensors

#: Rows of a matrix that are turned to fp32 at a time.
_ROWS = 4096


class RawWeights:
    """The tensors of some files.

    Args:
        files: safetensors, or pickles of tensors alone; a later file's tensor replaces an earlier one's of its name.
        dtype: that the model ran in: a tower in fp32 ran in its language model's dtype. None keeps each tensor's own.
    """

    def __init__(self, files: Iterable[Path], dtype: torch.dtype | None = None) -> None:
        self._dtype = dtype
        self._files: dict[str, Path] = {}
        self._pickled: dict[Path, dict[str, Tensor]] = {}
        for file in files:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as opened:
                    names = list(opened.keys())
            else:
                self._pickled[file] = pickled_tensors(file)
                names = list(self._pickled[file])
            self._files |= {name.removeprefix("base_model.model."): file for name in names}

    def __iter__(self) -> Iterator[str]:
        """Return the names of all tensors, without peft's prefix."""
        return iter(self._files)

    def prefix(self, ending: str) -> str:
        """Return what precedes an ending in the one name that has it.

        Raises:
            RunError: no tensor or several have it.
        """
        found = [name for name in self._files if f".{name}".endswith(f".{ending}")]
        if len(found) != 1:
            raise RunError(f"proof: {len(found)} tensors are called {ending}, not one: {', '.join(found[:4])}")
        return found[0].removesuffix(ending)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._files

    def get(self, name: str) -> Tensor:
        """Return a whole tensor in fp32."""
        return self._in_fp32(self._stored(name, None, None))

    def rows(self, name: str, start: int | None = None, stop: int | None = None) -> Tensor:
        """Return some rows of a tensor in fp32."""
        return self._in_fp32(self._stored(name, start, stop))

    def _in_fp32(self, tensor: Tensor) -> Tensor:
        return (tensor if self._dtype is None else tensor.to(self._dtype)).float()

    def _stored(self, name: str, start: int | None, stop: int | None) -> Tensor:
        file = self._files[name]
        if file in self._pickled:
            held = self._pickled[file]
            full = held[name] if name in held else held[f"base_model.model.{name}"]
            return full if start is None else full[start:stop]
        # Opened for each tensor: what is mapped counts as memory until the file is closed.
        with safe_open(file, framework="pt") as opened:
            full_name = name if name in opened.keys() else f"base_model.model.{name}"  # noqa: SIM118  # no mapping
            stored: Tensor = opened.get_tensor(full_name) if start is None else opened.get_slice(full_name)[start:stop]
            return stored

    def count(self, name: str) -> int:
        """Return how many rows a tensor has."""
        file = self._files[name]
        if file in self._pickled:
            return len(self._stored(name, None, None))
        with safe_open(file, framework="pt") as opened:
            full_name = name if name in opened.keys() else f"base_model.model.{name}"  # noqa: SIM118  # no mapping
            length: int = opened.get_slice(full_name).get_shape()[0]
            return length


def times_rows(states: Tensor, weights: RawWeights, name: str) -> Tensor:
    """Return `[..., width]` times a matrix `[rows, width]`, `[..., rows]`, with a part of the matrix in memory."""
    count = weights.count(name)
    parts = [states @ weights.rows(name, start, min(start + _ROWS, count)).T for start in range(0, count, _ROWS)]
    return torch.cat(parts, dim=-1)
