"""Whole models to and from disk: a plain transformers LLaVA folder, with processor, chat template and stop tokens.

Training state for resuming is in `training`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    GenerationConfig,
)

import olivine.model.registered  # noqa: F401  # before any folder is read
from olivine.data.images import ImageTransform
from olivine.data.vocabulary import IMAGE_TOKEN
from olivine.errors import DataError, RequestError
from olivine.files import atomic_folder, read_json
from olivine.model import without_progress_bars
from olivine.model.companion import COMPANION as COMPANION
from olivine.model.companion import Companion, read_companion, verify, write_companion
from olivine.model.configuration import folder_config, understood
from olivine.model.connectors.llava import image_tokens
from olivine.model.hub_names import rename_saved, state_to_save
from olivine.model.languages.registry import language_family
from olivine.model.processor import finish_configs, processor
from olivine.model.tokenizers import check_vocabulary_rows, folder_tokenizer
from olivine.model.towers.assembly import shown_features
from olivine.model.vlm import VisionLanguageModel
from olivine.model.weights import load_weights, tensors_in, whole_naming

#: The name of a model folder in messages.
_KEY = "checkpoint"


def save(
    vlm: VisionLanguageModel,
    folder: Path,
    *,
    transform: ImageTransform | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a folder that `LlavaForConditionalGeneration` and `AutoProcessor` load as it is.

    `transform` is the one to use at inference; None takes the model's own. Weights keep their dtype; `weights`
    is the whole model's state if `vlm` holds only a shard of it. The folder appears complete or not at all.
    """
    transform = transform or vlm.transform
    saved_processor = processor(vlm, transform)  # first: it may give the model a pad token
    with atomic_folder(folder) as temporary, without_progress_bars():
        state = vlm.model.state_dict() if weights is None else weights
        vlm.model.save_pretrained(temporary, state_dict=state_to_save(state, vlm.model.config))
        rename_saved(temporary, vlm.model.config)
        saved_processor.save_pretrained(temporary)
        finish_configs(temporary)
        write_companion(temporary, vlm.template, transform)


def load(folder: Path, *, to_train: bool = False) -> VisionLanguageModel:
    """Read a folder that `save` wrote, with weights in the dtype they were saved in.

    `to_train` reads by way of fp32: transformers makes Gemma's embedding scale in the dtype it loads, and training
    from bf16 weights must not continue with a rounded one.

    Raises:
        RequestError: no such folder, not one of Olivine's, or with weights missing, damaged or of another model.
        DataError: a file differs from its checksum, or files do not belong together.
    """
    if not (folder / COMPANION).is_file():
        raise RequestError(
            f"{folder}: no checkpoint of Olivine's (a folder with config.json, weights and {COMPANION}). "
            "Give the checkpoint folder of a stage, or the run directory."
        )
    companion = read_companion(folder)
    verify(folder, companion)
    config = whole_config(folder)
    model = _load_model(folder, config, to_train=to_train)
    tokenizer = folder_tokenizer(folder, _KEY)
    _check_together(folder, model, tokenizer, companion)
    vlm = VisionLanguageModel(
        model=model.eval(),
        tokenizer=tokenizer,
        transform=companion.transform,
        template=companion.template,
        image_tokens=model.config.image_seq_length,
    )
    if to_train:
        vlm.cast(_stored_dtype(folder))
    return vlm


def whole_config(folder: Path) -> Any:
    """Return the configuration of a folder that holds a whole model.

    Raises:
        RequestError: it cannot be read, or its language model is not supported.
        DataError: it is not of the LLaVA type.
    """
    config = folder_config(folder, _KEY)
    if getattr(config, "vision_config", None) is None or type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise DataError(f"{folder}: config.json describes a {config.model_type!r}, no model of the LLaVA type.")
    language_family(config.text_config.model_type, f"{folder}: config.json: text_config").check(
        config.text_config, f"{folder}: config.json: text_config"
    )
    return config


def _load_model(folder: Path, config: Any, *, to_train: bool) -> Any:
    model = load_weights(
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)],
        folder,
        config,
        whole_naming(config, tensors_in(folder, _KEY)),
        key=_KEY,
        dtype=torch.float32 if to_train else "auto",
    )
    where = f"{_KEY}: {folder / 'generation_config.json'}"
    model.generation_config = understood(lambda: GenerationConfig.from_pretrained(folder, local_files_only=True), where)
    return model


def _check_together(folder: Path, model: Any, tokenizer: Any, companion: Companion) -> None:
    """Refuse files that do not belong together: each is intact, but answers would be noise."""
    rows: int = model.get_input_embeddings().num_embeddings
    check_vocabulary_rows(tokenizer, rows, f"{_KEY}: {folder}")
    placeholder, known = model.config.image_token_id, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if placeholder != known or placeholder >= rows:
        raise DataError(
            f"{folder}: config.json has {IMAGE_TOKEN} as id {placeholder}, the tokenizer as {known}, of {rows:,} rows. "
            "Give the tokenizer that was saved with the model."
        )
    config, size = model.config, companion.image.size
    try:
        features = shown_features(
            config.vision_config, config.vision_feature_select_strategy, config.vision_feature_layer, size
        )
        tokens = image_tokens(config, features.side, features.extra, features.width)
    except RequestError as error:
        raise DataError(f"{folder}: {COMPANION}: image.size is {size}: {error}") from None
    if config.image_seq_length != tokens:
        raise DataError(
            f"{folder}: {COMPANION}: image.size {size} with patches of {config.vision_config.patch_size} gives "
            f"{tokens} image tokens, but config.json says {config.image_seq_length}."
        )


def _stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype that the folder's weights were trained on and saved in."""
    name = read_json(folder / "config.json").get("dtype")
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise DataError(f"{folder}: config.json: dtype is {name!r}; expected one of {', '.join(dtypes)}.")
    return dtypes[name]
