"""The weights that a bf16 stage trained, unrounded, handed from its end to the start of the next stage.

A stage's checkpoint holds bf16, for use; training on from that would first lose the small updates to rounding.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from olivine.distributed import Processes
from olivine.errors import DataError
from olivine.files import atomic_file
from olivine.model import checkpoint
from olivine.model.vlm import VisionLanguageModel

#: Beside the checkpoint's folder, not in it: tools that read every file of a model folder would load it too.
TRAINED = "trained.safetensors"


def trained_weights(
    trained: Mapping[str, nn.Parameter], vlm: VisionLanguageModel, processes: Processes
) -> dict[str, Tensor]:
    """Return the fp32 weights among those that a stage trained, by their names in the model, on the first process.

    Adapters are not included: they are merged into weights that stay in bf16. All processes must call it; the others
    get nothing.
    """
    names = vlm.model.state_dict().keys()
    found: dict[str, Tensor] = {}
    for name, parameter in trained.items():
        if name not in names or parameter.dtype != torch.float32:
            continue
        whole = parameter.detach()
        whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
        if processes.is_first:
            found[name] = whole.cpu() if processes.several else whole
    return found


def write_trained(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the weights beside a stage's checkpoint; if there are none, remove the file of an earlier attempt."""
    if not weights:
        (folder / TRAINED).unlink(missing_ok=True)
    else:
        with atomic_file(folder / TRAINED) as temporary:
            save_file({name: weight.contiguous().cpu() for name, weight in weights.items()}, temporary)


def load_to_train(folder: Path) -> VisionLanguageModel:
    """Load a stage's checkpoint folder to continue training from it, with unrounded trained weights.

    Raises:
        RequestError: there is no checkpoint.
        DataError: the unrounded weights beside it are damaged, or another model's.
    """
    vlm = checkpoint.load(folder, to_train=True)
    file = folder.parent / TRAINED
    if file.is_file():
        try:
            weights = load_file(file)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file}: damaged ({error}). Delete the stage's folder to train it again.") from None
        put_trained(weights, vlm, file)
    return vlm


def put_trained(weights: Mapping[str, Tensor], vlm: VisionLanguageModel, file: Path | None = None) -> None:
    """Replace the model's weights with unrounded ones.

    Raises:
        DataError: the model has no weight of that name or shape.
    """
    parameters = dict(vlm.model.named_parameters())
    for name, weight in weights.items():
        if name not in parameters or parameters[name].shape != weight.shape:
            raise DataError(f"{file}: {name} {list(weight.shape)} is not a weight of the model beside it.")
        parameters[name].data = weight.to(parameters[name].device)
