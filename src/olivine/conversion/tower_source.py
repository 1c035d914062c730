"""A vision tower from beside a model: its configuration, its tensors and its image processor's values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.conversion.layouts.base import SourceFolder
from olivine.conversion.raw_tensors import RawTensor, beginning_with
from olivine.errors import RequestError
from olivine.model.configuration import model_config
from olivine.model.hub import WEIGHTS, local_folder
from olivine.registry import locate

#: The tower of LLaVA-1.5 and LLaVA-Gemma, whose configuration need not be fetched where its weights are there.
_KNOWN = {
    "openai/clip-vit-large-patch14-336": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 768,
    }
}
_CLIP_SIZE = 336


def tower_folder(source: str, key: str) -> SourceFolder:
    """Return the folder of a tower.

    Raises:
        RequestError: it cannot be found or fetched.
    """
    return SourceFolder(local_folder(locate(source), key, (*WEIGHTS, "pytorch_model.bin")), key)


@dataclass(frozen=True, slots=True)
class TowerValues:
    """A tower's configuration, complete and as the file has it, and its image processor's values."""

    complete: dict[str, Any]
    as_written: Mapping[str, Any]
    preprocessor: dict[str, Any]


def tower_values(source: str | None, asked: str | None, stored: bool) -> TowerValues:
    """Return how a tower is configured.

    Args:
        source: what the model's configuration names.
        asked: what the user names instead.
        stored: whether the model's folder has the tower's weights.

    Raises:
        RequestError: it cannot be found or fetched.
    """
    name = asked or source
    if name is None:
        raise RequestError("--tower: the folder does not say which vision tower it needs. Give --tower FOLDER.")
    if asked is None and stored and name in _KNOWN and not Path(name).is_dir():
        return TowerValues(complete(_KNOWN[name], name), _KNOWN[name], {"crop_size": _CLIP_SIZE})
    folder = tower_folder(name, "--tower")
    config = model_config(str(folder.path), "--tower")
    values = getattr(config, "vision_config", config).to_dict()
    return TowerValues(
        values, folder.values.get("vision_config", folder.values), folder.json("preprocessor_config.json")
    )


def tower_tensors(source: str | None, asked: str | None, model_type: str) -> dict[str, RawTensor]:
    """Return the tensors in a tower's own folder, without other parts of it."""
    folder = tower_folder(str(asked or source), "--tower")
    return own_names(folder.tensors, model_type)


def own_names(tensors: Mapping[str, RawTensor], model_type: str) -> dict[str, RawTensor]:
    """Return a tower's tensors named as its module without `vision_model.`; text models and projections are dropped."""
    outer = {"clip_vision_model": "vision_model.", "siglip_vision_model": "vision_model."}.get(model_type, "")
    inside = beginning_with(tensors, outer) if outer else {}
    kept = inside or dict(tensors)
    others = ("text_model.", "visual_projection.", "text_projection.")
    return {name: tensor for name, tensor in kept.items() if not name.startswith(others)}


def complete(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return configuration values with their model type's defaults, checked.

    Raises:
        RequestError: they cannot be meant.
    """
    filled: dict[str, Any] = model_config(dict(values), key).to_dict()
    return filled
