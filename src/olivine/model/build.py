"""From a recipe's model section to a `VisionLanguageModel`: parts loaded or started at random, then assembled.

Saving and loading whole models is in `checkpoint`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import cached_file

from olivine.data.images import ImageTransform
from olivine.data.vocabulary import IMAGE_TOKEN, train_tokenizer
from olivine.errors import RequestError
from olivine.files import read_json
from olivine.model.connector import initialise, llava_class
from olivine.model.processor import require_image_processor
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import ModelRecipe, Source, TokenizerRecipe, VisionRecipe
from olivine.registry import locate

#: Towers whose patch tokens follow exactly one class token, which is what transformers' LLaVA drops.
TOWER_TYPES = ("clip_vision_model", "dinov2")
#: Which template a language model was instruction-tuned with, by its model type.
TEMPLATE_OF = {"gemma": "gemma", "llama": "vicuna"}

_CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS = {"clip_vision_model": _CLIP_STATISTICS, "dinov2": _IMAGENET_STATISTICS}


def build(recipe: ModelRecipe, *, seed: int, texts: Callable[[], Iterable[str]]) -> VisionLanguageModel:
    """Build the model that a recipe describes, in fp32 on the CPU.

    Args:
        recipe: the model section.
        seed: decides every random start.
        texts: what a tokenizer is trained on, asked for only if the recipe has one trained.

    Raises:
        RequestError: a part that cannot be found, fetched or used, with its key in the recipe.
    """
    torch.manual_seed(seed)
    recipe = _with_backbones_locate(recipe)
    tower = _load_tower(recipe.vision)
    language = _load_language(recipe.language.from_)
    tokenizer = _load_tokenizer(recipe, texts)
    image_token_id = _add_image_token(tokenizer, language)
    transform = _image_transform(recipe.vision, tower.config)
    image_tokens = (transform.size // tower.config.patch_size) ** 2

    model_class, connector_config = llava_class(recipe.connector)
    config = model_class.config_class(
        vision_config=tower.config,
        text_config=language.config,
        image_token_index=image_token_id,
        image_seq_length=image_tokens,
        vision_feature_layer=recipe.vision.layer,
        vision_feature_select_strategy="default",
        **connector_config,
    )
    _check_layer(recipe.vision.layer, tower.config.num_hidden_layers)
    # The skeleton holds no memory; only the connector is made here, all else is already loaded.
    with torch.device("meta"):
        model = model_class(config)
    model.model.vision_tower = tower
    model.model.language_model = language.model
    model.lm_head = language.lm_head
    model.model.multi_modal_projector.to_empty(device="cpu")
    initialise(model.model.multi_modal_projector, recipe.connector.depth, torch.Generator().manual_seed(seed))
    model.tie_weights()

    template = recipe.language.template or _template_of(language.config.model_type)
    vlm = VisionLanguageModel(model.eval(), tokenizer, transform, template, image_tokens)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(vlm.encoder().stop_ids),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        do_sample=False,
    )
    return vlm


def _with_backbones_locate(recipe: ModelRecipe) -> ModelRecipe:
    """The recipe with `world:NAME` replaced by the folder that it stands for."""

    def place(source: Source) -> Source:
        return locate(source) if isinstance(source, str) else source

    language = {"from_": place(recipe.language.from_)}
    if isinstance(recipe.language.tokenizer, str):
        language["tokenizer"] = place(recipe.language.tokenizer)
    return recipe.model_copy(
        update={
            "vision": recipe.vision.model_copy(update={"from_": place(recipe.vision.from_)}),
            "language": recipe.language.model_copy(update=language),
        }
    )


def build_tower(recipe: VisionRecipe) -> tuple[Any, ImageTransform]:
    """The vision tower alone, in fp32 on the CPU, and what fits pictures to it; random weights have no seed here.

    Raises:
        RequestError: it cannot be found, fetched or used.
    """
    if isinstance(recipe.from_, str):
        recipe = recipe.model_copy(update={"from_": locate(recipe.from_)})
    tower = _load_tower(recipe)
    _check_layer(recipe.layer, tower.config.num_hidden_layers)
    return tower.eval(), _image_transform(recipe, tower.config)


def skeleton(recipe: ModelRecipe) -> tuple[Any, int]:
    """The model that `build` would make, without memory: shapes alone, on the meta device; and its image tokens.

    No tokenizer is read: where the language model's own rows would not hold `<image>`, 64 more are taken for granted.

    Raises:
        RequestError: a part whose configuration cannot be found or used.
    """
    recipe = _with_backbones_locate(recipe)
    tower, language = _tower_config(recipe.vision), _language_config(recipe.language.from_)
    wanted = recipe.language.tokenizer
    if not isinstance(wanted, TokenizerRecipe) or wanted.vocab_size > language.vocab_size:
        rows = wanted.vocab_size if isinstance(wanted, TokenizerRecipe) else language.vocab_size + 1
        language.vocab_size = -(-rows // 64) * 64
    transform = _image_transform(recipe.vision, tower)
    model_class, connector_config = llava_class(recipe.connector)
    config = model_class.config_class(
        vision_config=tower, text_config=language, vision_feature_layer=recipe.vision.layer, **connector_config
    )
    with torch.device("meta"):
        model = model_class(config)
    model.tie_weights()
    return model, (transform.size // tower.patch_size) ** 2


def _tower_config(recipe: VisionRecipe) -> Any:
    key = "model.vision.from"
    config = model_config(recipe.from_, key)
    config = getattr(config, "vision_config", config)
    if config.model_type not in TOWER_TYPES:
        raise RequestError(f"{key}: a {config.model_type!r} is no known tower. Valid: {', '.join(TOWER_TYPES)}.")
    return config


def _language_config(source: Source) -> Any:
    key = "model.language.from"
    config = model_config(source, key)
    if config.model_type not in TEMPLATE_OF:
        raise RequestError(
            f"{key}: a {config.model_type!r} is no known language model. Valid: {', '.join(TEMPLATE_OF)}."
        )
    return config


def _load_tower(recipe: VisionRecipe) -> Any:
    key = "model.vision.from"
    config = _tower_config(recipe)
    if isinstance(recipe.from_, dict):
        return AutoModel.from_config(config)
    with torch.device("meta"):
        tower_class = type(AutoModel.from_config(config))
    return _fetch(
        lambda: tower_class.from_pretrained(recipe.from_, config=config, dtype=torch.float32), recipe.from_, key
    )


def _load_language(source: Source) -> Any:
    key = "model.language.from"
    config = _language_config(source)
    if isinstance(source, dict):
        return AutoModelForCausalLM.from_config(config)
    return _fetch(lambda: AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), source, key)


def _load_tokenizer(recipe: ModelRecipe, texts: Callable[[], Iterable[str]]) -> Any:
    wanted = recipe.language.tokenizer
    if isinstance(wanted, TokenizerRecipe):
        return train_tokenizer(texts(), wanted.vocab_size)
    source = wanted if wanted is not None else recipe.language.from_
    if isinstance(source, dict):
        raise RequestError(
            "model.language.tokenizer: missing; a language model given as a configuration has none of its own. "
            "Name one, or have one trained: tokenizer: {vocab_size: 1024}."
        )
    return load_tokenizer(source, "model.language.tokenizer")


def load_tokenizer(source: str, key: str) -> Any:
    """A published or saved tokenizer.

    Raises:
        RequestError: it cannot be found or fetched; the message begins with `key`.
    """
    return _fetch(lambda: AutoTokenizer.from_pretrained(source), source, key)


def image_token(tokenizer: Any) -> int:
    """The id of `<image>`, which is added to the tokenizer if it has none."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"extra_special_tokens": [*_extra_tokens(tokenizer), IMAGE_TOKEN]})
    token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return token_id


def _add_image_token(tokenizer: Any, language: Any) -> int:
    """Give the language model a row for every id, `<image>` included; returns that id.

    Rows are padded to a multiple of 64, as LLaVA-Gemma's conversion does (256,064 for Gemma).
    """
    token_id = image_token(tokenizer)
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    return token_id


def _extra_tokens(tokenizer: Any) -> list[str]:
    known = getattr(tokenizer, "extra_special_tokens", None)
    return list(known.values() if isinstance(known, dict) else known or [])


def _image_transform(recipe: VisionRecipe, config: Any) -> ImageTransform:
    require_image_processor(recipe.image_fit)
    mean, std = STATISTICS[config.model_type]
    size = config.image_size if config.model_type == "clip_vision_model" else 224
    stored = _stored_preprocessor(recipe.from_)
    mean, std = stored.get("image_mean", mean), stored.get("image_std", std)
    size = recipe.image_size or _stored_side(stored) or size
    if size % config.patch_size:
        raise RequestError(f"model.vision.image_size: {size} is no multiple of the patch size {config.patch_size}.")
    if config.model_type == "clip_vision_model" and size != config.image_size:
        raise RequestError(f"model.vision.image_size: {size}, but this CLIP takes {config.image_size} alone.")
    return ImageTransform(size, recipe.image_fit, recipe.mean or tuple(mean), recipe.std or tuple(std))


def _stored_preprocessor(source: Source) -> dict[str, Any]:
    if isinstance(source, dict):
        return {}
    if Path(source).is_dir():
        path = Path(source) / "preprocessor_config.json"
        return dict(read_json(path)) if path.is_file() else {}
    found = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    return dict(read_json(Path(found))) if found else {}


def _stored_side(stored: dict[str, Any]) -> int | None:
    crop = stored.get("crop_size")
    side = crop.get("height") if isinstance(crop, dict) else crop
    return int(side) if side else None


def model_config(source: Source, key: str) -> Any:
    """The transformers configuration of a part; `key` is what messages call it.

    Raises:
        RequestError: it cannot be found, fetched or read.
    """
    if isinstance(source, str):
        source = locate(source)
    if isinstance(source, dict):
        values = dict(source)
        model_type = values.pop("model_type", None)
        if model_type is None:
            raise RequestError(f"{key}: a configuration needs model_type (and its sizes).")
        try:
            return AutoConfig.for_model(model_type, **values)
        except (ValueError, TypeError) as error:
            raise RequestError(f"{key}: {error}") from None
    return _fetch(lambda: AutoConfig.from_pretrained(source), source, key)


def _fetch(load: Callable[[], Any], source: str, key: str) -> Any:
    """Load from a folder or the hub, and say plainly which of the two failed."""
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise RequestError(f"{key}: folder {source!r} not found.")
    try:
        return load()
    except (OSError, ValueError) as error:
        if Path(source).is_dir():
            raise RequestError(f"{key}: folder {source!r} cannot be loaded: {_first_line(error)}") from None
        raise RequestError(
            f"{key}: {source!r} is no local folder, and could not be fetched from the hub ({_first_line(error)}). "
            "Check the name and the network, or give the path of a downloaded folder."
        ) from None


def _check_layer(layer: int, layers: int) -> None:
    if not -(layers + 1) <= layer <= layers:
        raise RequestError(f"model.vision.layer: {layer}; this tower has hidden states {-(layers + 1)} to {layers}.")


def _template_of(model_type: str) -> str:
    return TEMPLATE_OF[model_type]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
