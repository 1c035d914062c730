"""Tensors as files hold them, read a few rows at a time: safetensors, and pickles that hold tensors alone.

Which tensors mean what is for the layouts to say.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from olivine.errors import RequestError
from olivine.model.pickled import pickled_tensors
from olivine.model.weights import SINGLE, indexed_files, tensors_of_file

#: Names of safetensors for the dtypes that weights have here.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BY_DTYPE = {dtype: name for name, dtype in DTYPES.items()}
_PICKLE = "pytorch_model.bin"
#: A layout's weights in one file, in the order of preference, each with its index where they are in several.
_WHOLE_MODEL = (SINGLE, _PICKLE)


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A floating-point tensor in a file.

    Attributes:
        file: where it is.
        rows: returns slices `start` to `stop` of the first dimension, in the stored dtype.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: Callable[[int, int], Tensor]

    def whole(self) -> Tensor:
        """Return all of it."""
        return self.rows(0, self.shape[0])


def model_tensors(folder: Path, key: str) -> dict[str, RawTensor]:
    """Return every weight of a model folder by name, from safetensors or else from pickled tensors.

    Raises:
        RequestError: there are none; files are missing, damaged, or hold more than tensors.
    """
    where = f"{key}: {folder}"
    for single in _WHOLE_MODEL:  # a single file before an index, as transformers looks for them
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return tensors_in_file(folder / single, key)
        if index.is_file():
            return _together([tensors_in_file(file, key) for file in indexed_files(folder, index, where)], where)
    parts = sorted([*folder.glob("model-*-of-*.safetensors"), *folder.glob("pytorch_model-*-of-*.bin")])
    if parts:
        raise RequestError(f"{where}: holds {parts[0].name}, but not the index of its files. Fetch the folder again.")
    raise RequestError(f"{where}: no weights there; expected {SINGLE} or {_PICKLE}, or an index and its files.")


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a whole model's weights, or parts of them."""
    patterns = ("model.safetensors*", "pytorch_model.bin*", "model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def tensors_in_file(file: Path, key: str) -> dict[str, RawTensor]:
    """Return the weights of one file by name; integers (positions that old versions saved) are no weights.

    Raises:
        RequestError: it is damaged, or holds more than tensors.
    """
    if file.suffix == ".safetensors":
        return _of_safetensors(file, key)
    held = pickled_tensors(file)
    return {
        name: RawTensor(file, tuple(tensor.shape), tensor.dtype, _rows_of(tensor))
        for name, tensor in held.items()
        if tensor.is_floating_point() and tensor.dim() > 0
    }


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name in safetensors."""
    return _BY_DTYPE[dtype]


def _of_safetensors(file: Path, key: str) -> dict[str, RawTensor]:
    stored = tensors_of_file(file, key)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    found = {}
    for name, tensor in stored.items():
        if tensor.dtype in DTYPES and tensor.shape:
            begin = 8 + length + header[name]["data_offsets"][0]
            dtype = DTYPES[tensor.dtype]
            found[name] = RawTensor(file, tensor.shape, dtype, _read_rows(file, begin, tensor.shape, dtype))
    return found


def _read_rows(file: Path, begin: int, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[int, int], Tensor]:
    # Read, not mapped: mapped pages would count as memory until the whole file is in it.
    row = math.prod(shape[1:]) * dtype.itemsize

    def rows(start: int, stop: int) -> Tensor:
        if (stop - start) * row == 0:
            return torch.empty((stop - start, *shape[1:]), dtype=dtype)
        buffer = bytearray((stop - start) * row)
        with file.open("rb") as opened:
            opened.seek(begin + start * row)
            read = opened.readinto(buffer)
        if read != len(buffer):
            raise RequestError(f"{file}: ends early. Fetch it again.")
        return torch.frombuffer(buffer, dtype=dtype).view(stop - start, *shape[1:])

    return rows


def _rows_of(tensor: Tensor) -> Callable[[int, int], Tensor]:
    return lambda start, stop: tensor[start:stop]


def _together(files: list[dict[str, RawTensor]], where: str) -> dict[str, RawTensor]:
    found: dict[str, RawTensor] = {}
    for tensors in files:
        for name, tensor in tensors.items():
            if name in found:
                raise RequestError(f"{where}: tensor {name!r} is in {found[name].file.name} and in {tensor.file.name}.")
            found[name] = tensor
    return found


def beginning_with(tensors: Mapping[str, RawTensor], *prefixes: str) -> dict[str, RawTensor]:
    """Return the tensors whose names begin with one of some prefixes, without it; the first prefix that fits counts."""
    found = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is not None:
            found[name[len(prefix) :]] = tensor
    return found
