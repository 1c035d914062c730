"""Safetensors written while they are computed: a few rows of one tensor at a time, never a whole model in memory."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from olivine.conversion.raw_tensors import RawTensor, dtype_name
from olivine.errors import RequestError
from olivine.files import write_json
from olivine.model.weights import INDEX, SINGLE

#: Bytes of one tensor in memory at a time, and the size from which another file is begun.
BLOCK, FILE = 2**26, 4 * 10**9


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written: its name, shape and dtype, and what computes rows `start` to `stop` of it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: Callable[[int, int], Tensor]

    @property
    def count(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return self.count * self.dtype.itemsize


def as_stored(name: str, raw: RawTensor, dtype: torch.dtype) -> PlannedTensor:
    """Plan a tensor as it is."""
    return PlannedTensor(name, raw.shape, dtype, raw.rows)


def scaled(planned: PlannedTensor, factor: float) -> PlannedTensor:
    """Plan a tensor times a number, multiplied in fp32."""
    return PlannedTensor(
        planned.name, planned.shape, planned.dtype, lambda start, stop: planned.rows(start, stop).float() * factor
    )


def extended(planned: PlannedTensor, rows: int) -> PlannedTensor:
    """Plan a table with more rows; each new one is the mean of the old, which as a head never gives the largest logit.

    The mean is computed when the first new row is asked for.
    """
    before = planned.shape[0]
    cached: list[Tensor] = []

    def read(start: int, stop: int) -> Tensor:
        parts = [planned.rows(start, min(stop, before))] if start < before else []
        if stop > before:
            if not cached:
                cached.append(_mean_row(planned))
            parts.append(cached[0].expand(stop - max(start, before), -1).to(planned.dtype))
        return torch.cat([part.to(planned.dtype) for part in parts])

    return PlannedTensor(planned.name, (rows, *planned.shape[1:]), planned.dtype, read)


def _mean_row(planned: PlannedTensor) -> Tensor:
    total = torch.zeros(planned.shape[1:], dtype=torch.float64)
    for start, stop in _blocks(planned):
        total += planned.rows(start, stop).double().sum(0)
    return (total / planned.shape[0]).float()


def _blocks(planned: PlannedTensor) -> Iterable[tuple[int, int]]:
    row = max(1, math.prod(planned.shape[1:]) * 4)
    step = max(1, BLOCK // row)
    for start in range(0, planned.shape[0], step):
        yield start, min(start + step, planned.shape[0])


def write_tensors(folder: Path, tensors: Sequence[PlannedTensor]) -> None:
    """Write tensors into a folder as transformers names its files: one, or several with an index.

    Raises:
        RequestError: values that are no numbers, or too large for the dtype.
    """
    groups: list[list[PlannedTensor]] = [[]]
    for tensor in tensors:
        if groups[-1] and sum(each.bytes for each in groups[-1]) + tensor.bytes > FILE:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        _write_file(folder / SINGLE, groups[0])
        return
    names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        _write_file(folder / name, group)
    weight_map = {tensor.name: name for name, group in zip(names, groups, strict=True) for tensor in group}
    total = sum(tensor.bytes for tensor in tensors)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _check_finite(block: Tensor, tensor: PlannedTensor) -> None:
    # The extremes carry every NaN and infinity, and take a tenth of the time of `isfinite` over all values.
    if block.numel() and not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(block)):
        raise RequestError(
            f"{tensor.name}: holds values that are no numbers (NaN or infinity) in "
            f"{str(tensor.dtype).removeprefix('torch.')}. The folder is damaged, its training diverged, or float16 "
            "cannot hold the values: then give --dtype bfloat16 or float32."
        )


def _write_file(path: Path, tensors: Sequence[PlannedTensor]) -> None:
    """See the safetensors format: eight bytes of length, a JSON header, the data in the order of the header."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": dtype_name(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.bytes],
        }
        offset += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for start, stop in _blocks(tensor):
                block = tensor.rows(start, stop).to(tensor.dtype).contiguous()
                _check_finite(block, tensor)
                file.write(block.view(-1).view(torch.uint8).numpy().data)
