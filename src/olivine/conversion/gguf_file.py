"""Tensors and fields on their way into one GGUF file, in the precision asked for.

What they are called and hold is decided by `gguf_language` and `gguf_vision`; the format is the `gguf` library's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from olivine.errors import RequestError
from olivine.files import atomic_file

Precision = Literal["f32", "f16", "q8_0"]
#: Q8_0 quantises this many neighbouring weights of a row together.
BLOCK = 32


@dataclass(slots=True)
class GgufFile:
    """What one GGUF file will hold.

    Attributes:
        architecture: llama.cpp's name of it.
        tensors: by llama.cpp's names; matrices `[out, in]` fp32.
        fields: adds the metadata to a `gguf.GGUFWriter`.
        exact: names of matrices that stay in fp32 in every precision.
    """

    architecture: str
    tensors: dict[str, NDArray[np.float32]]
    fields: Callable[[Any], None]
    exact: frozenset[str] = field(default_factory=frozenset)


def gguf_library() -> Any:
    """Return the `gguf` library.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise RequestError("--to gguf needs the extra gguf: pip install 'olivine[gguf]'.") from None
    return gguf


def write(path: Path, content: GgufFile, precision: Precision) -> dict[str, int]:
    """Write a file atomically, and return how many tensors it holds of each type."""
    gguf = gguf_library()
    counts: dict[str, int] = {}
    with atomic_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, content.architecture)
        content.fields(writer)
        types = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
        writer.add_file_type(types.get(precision, gguf.LlamaFileType.MOSTLY_Q8_0))
        for name, tensor in content.tensors.items():
            kind = _kind(name, tensor, content, precision)
            counts[kind] = counts.get(kind, 0) + 1
            quantised = gguf.GGMLQuantizationType[kind.upper()]
            writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(tensor), quantised), raw_dtype=quantised)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return counts


def _kind(name: str, tensor: NDArray[np.float32], content: GgufFile, precision: Precision) -> Precision:
    """Return a tensor's type: vectors and what must be exact stay in fp32, rows of no whole blocks in fp16."""
    if tensor.ndim != 2 or name in content.exact:
        return "f32"
    if precision == "q8_0" and tensor.shape[-1] % BLOCK:
        return "f16"
    return precision


def as_arrays(state: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Return a model's state as fp32 arrays."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}
