"""A whole model as the start of training (`model.from`): found, checked from its small files, loaded, and measured.

How modules are built one by one is in `build`; reading and writing model folders in `checkpoint`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from olivine.errors import RequestError
from olivine.model import checkpoint
from olivine.model.companion import COMPANION, Companion, read_companion
from olivine.model.encoders import chat_template, template_encoder
from olivine.model.hub import CONFIGURATION, TOKENIZER, WEIGHTS, local_folder
from olivine.model.model_folder import find_checkpoint, is_run
from olivine.model.tokenizers import load_tokenizer
from olivine.model.towers.assembly import TowerPlan, shown_features
from olivine.model.towers.joined import JOINED
from olivine.model.towers.registry import tower_family
from olivine.model.vlm import VisionLanguageModel
from olivine.model.weights import tensors_in
from olivine.registry import locate

KEY = "model.from"


def start_folder(source: str, files: tuple[str, ...] = CONFIGURATION) -> Path:
    """Return the model folder that `model.from` means, fetched from the hub if it is an id.

    Args:
        source: a model folder, the directory of a stage or a run, a named source or a hub id.
        files: what to fetch of a folder on the hub.

    Raises:
        RequestError: there is none, the run is not finished, or the folder is in another tool's layout.
    """
    located = locate(source)
    path = Path(located).expanduser()
    folder = find_checkpoint(path) if is_run(path) else local_folder(located, KEY, files)
    if not (folder / COMPANION).is_file():
        raise RequestError(
            f"{KEY}: {source}: no model folder of Olivine's ({COMPANION} is missing, which says how images are fitted "
            f"and which template was trained). Convert a published model first: olivine import {source} --output DIR, "
            f"then give {KEY}: DIR."
        )
    return folder


def check_start(source: str, templates: Mapping[str, str]) -> None:
    """Refuse a whole model that cannot be trained on, as far as everything but its weights' values tells.

    Args:
        source: as for `start_folder`.
        templates: those that stages will use, by their keys in the recipe.

    Raises:
        RequestError: it cannot be found or used, its weights are missing, or it cannot write a template.
    """
    folder = start_folder(source, TOKENIZER)
    config = checkpoint.whole_config(folder)
    if Path(locate(source)).expanduser().is_dir():
        tensors_in(folder, KEY)
    tokenizer = load_tokenizer(str(folder), KEY)
    image = {"image_token_id": config.image_token_id, "image_tokens": config.image_seq_length}
    for key, name in templates.items():
        try:
            template_encoder(chat_template(tokenizer, name), tokenizer, **image)
        except RequestError as error:
            raise RequestError(f"{key}: {error}") from None


def load_start(source: str) -> VisionLanguageModel:
    """Load the whole model in fp32 on the CPU, its files compared with their checksums.

    Raises:
        RequestError: it cannot be found or used.
        DataError: a file differs from its checksum.
    """
    vlm = checkpoint.load(start_folder(source, (*TOKENIZER, *WEIGHTS)), to_train=True)
    vlm.cast(torch.float32)
    return vlm


def start_skeleton(source: str) -> tuple[Any, TowerPlan]:
    """Return the whole model on the meta device (shapes without memory), and its tower's plan.

    Raises:
        RequestError: it cannot be found or used.
    """
    folder = start_folder(source)
    config = checkpoint.whole_config(folder)
    with torch.device("meta"):
        model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
    model.tie_weights()
    return model, start_plan(config, read_companion(folder))


def start_plan(config: Any, companion: Companion) -> TowerPlan:
    """Return the plan of the tower of a whole model's folder.

    Raises:
        RequestError: its family is not supported, or its patches do not divide the image size.
    """
    vision, strategy, layer = config.vision_config, config.vision_feature_select_strategy, config.vision_feature_layer
    features = shown_features(vision, strategy, layer, companion.image.size)
    if vision.model_type == JOINED:
        prefixes = [part["prefix"] for part in vision.parts]
    else:
        prefixes = [tower_family(vision.model_type, KEY).prefix(vision)]
    positions = sum(features.side**2 + prefix for prefix in prefixes)
    return TowerPlan(vision, layer, strategy, features, positions, companion.transform, ())


def start_tower(source: str) -> tuple[Any, TowerPlan]:
    """Return the tower of a whole model, in fp32 on the CPU, and its plan.

    Raises:
        RequestError, DataError: as for `load_start`.
    """
    vlm = load_start(source)
    return vlm.tower.eval(), start_plan(vlm.model.config, read_companion(start_folder(source)))
