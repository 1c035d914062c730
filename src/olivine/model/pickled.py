"""Convert pickled weights to safetensors: `python -m olivine.model.pickled SOURCE --output DIR`.

The only module that opens a pickle, on request and for tensors only (`weights_only=True`).
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from olivine.console import stderr_console
from olivine.errors import OlivineError, RequestError
from olivine.files import atomic_folder, read_json
from olivine.model.hub import TOKENIZER, local_folder
from olivine.model.weights import SINGLE

_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def convert(source: str, output: Path) -> None:
    """Write a copy of a model folder with its weights as safetensors.

    Args:
        source: a folder or a hub id with pytorch_model.bin, as one file or in numbered files.
        output: a folder that does not exist yet.

    Raises:
        RequestError: there are no such weights, or a pickle contains anything but tensors.
    """
    if output.exists():
        raise RequestError(f"{output}: already exists. Give the name of a new folder.")
    folder = local_folder(source, "SOURCE", (*TOKENIZER, _PICKLE, _PICKLE_INDEX, "pytorch_model-*.bin"))
    tensors: dict[str, torch.Tensor] = {}
    for name in _pickles(folder):
        # Tensors may share memory in a pickle, and may not in safetensors.
        tensors |= {key: tensor.clone().contiguous() for key, tensor in read_tensors(folder / name).items()}
    with atomic_folder(output) as temporary:
        for file in folder.iterdir():
            if file.is_file() and file.suffix in (".json", ".txt", ".model", ".jinja") and file.name != _PICKLE_INDEX:
                shutil.copyfile(file, temporary / file.name)
        save_file(tensors, temporary / SINGLE, metadata={"format": "pt"})


def _pickles(folder: Path) -> list[str]:
    if (folder / _PICKLE).is_file():
        return [_PICKLE]
    if not (folder / _PICKLE_INDEX).is_file():
        raise RequestError(f"{folder}: has neither {_PICKLE} nor {_PICKLE_INDEX}.")
    names = sorted(set(read_json(folder / _PICKLE_INDEX)["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise RequestError(f"{folder}: {_PICKLE_INDEX} names {name!r}, which is not a file in the folder.")
    return names


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a pickled file by name; nothing else in it is ever run.

    Raises:
        RequestError: it contains anything but tensors, or is damaged.
    """
    try:
        read = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # unpickling may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"{path}: not opened, since it contains more than tensors or is damaged ({reason})."
        ) from None
    if not isinstance(read, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in read.values()):
        raise RequestError(f"{path}: expected tensors by name.")
    return read


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m olivine.model.pickled", description=__doc__)
    parser.add_argument("source", help="a folder, or a hub id")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    arguments, console = parser.parse_args(), stderr_console()
    try:
        convert(arguments.source, arguments.output)
    except OlivineError as error:
        console.print(f"error: {error}", highlight=False)
        return error.exit_code
    console.print(f"done: {arguments.output}", highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
