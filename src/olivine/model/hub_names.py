"""Names of a saved model's tensors as folders of LLaVA models on the hub have them, whichever transformers wrote them.

Some versions of transformers have CLIP's and SigLIP's layers inside `vision_model`, others at the top of the tower, and
each saves what it has; all of them, and vLLM, load the hub's names. How names are read is in `weights`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from olivine.files import atomic_file, read_json, write_json
from olivine.model.weights import INDEX, INNER_LAYERS

_IN_MODEL = re.compile(r"^model\.(?=(vision_tower|multi_modal_projector|language_model)\.)")
_LANGUAGE = re.compile(r"^language_model\.(?!(model|lm_head)\.)")
_COPIED = 2**24


def hub_name(name: str, config: Any) -> str:
    """Return the hub's name of a tensor of a plain LLaVA; other models' names are returned as they are.

    Args:
        name: as any version of transformers has it in a module or a file.
        config: the whole model's configuration.
    """
    if config.model_type != "llava":
        return name
    name = _LANGUAGE.sub("language_model.model.", _IN_MODEL.sub("", name))
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    return _in_vision_model(name, config)


def _in_vision_model(name: str, config: Any) -> str:
    tower, found, inner = name.partition("vision_tower.")
    layers = INNER_LAYERS.get(config.vision_config.model_type, ())
    if found and inner.partition(".")[0] in layers:
        return f"{tower}vision_tower.vision_model.{inner}"
    return name


def state_to_save(state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Return a model's state under the names from which `save_pretrained` of transformers 5.23 makes the hub's."""
    if config.model_type != "llava":
        return dict(state)
    return {_in_vision_model(name, config): tensor for name, tensor in state.items()}


def rename_saved(folder: Path, config: Any) -> None:
    """Give the tensors in a folder's safetensors the hub's names, where they have others; data keep their bytes."""
    for file in sorted(folder.glob("*.safetensors")):
        _rename_in(file, config)
    index = folder / INDEX
    if index.is_file():
        values = read_json(index)
        values["weight_map"] = {hub_name(name, config): file for name, file in values["weight_map"].items()}
        write_json(index, values)


def _rename_in(file: Path, config: Any) -> None:
    """Rewrite a file's header; see the safetensors format: eight bytes of length, a JSON header, the data."""
    with file.open("rb") as source:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        renamed = {hub_name(name, config): value for name, value in header.items()}
        if renamed.keys() == header.keys():
            return
        assert len(renamed) == len(header), "two tensors of one name"
        text = json.dumps(renamed, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with atomic_file(file) as temporary, temporary.open("wb") as target:
            target.write(len(text).to_bytes(8, "little") + text)
            while piece := source.read(_COPIED):
                target.write(piece)
