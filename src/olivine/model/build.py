"""From a recipe's model section to a `VisionLanguageModel`: parts loaded or started at random, then assembled.

Saving and loading whole models is in `checkpoint`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig

from olivine.data.images import ImageTransform
from olivine.data.vocabulary import train_tokenizer
from olivine.errors import RequestError
from olivine.model.companion import COMPANION, read_companion, verify_module_files
from olivine.model.configuration import model_config, understood
from olivine.model.connector import initialise, llava_class
from olivine.model.hub import CONFIGURATION, WEIGHTS, local_folder
from olivine.model.preprocessor import STATISTICS as STATISTICS
from olivine.model.preprocessor import image_transform
from olivine.model.tokenizers import check_vocabulary_rows
from olivine.model.tokenizers import image_token as image_token
from olivine.model.tokenizers import load_tokenizer as load_tokenizer
from olivine.model.vlm import VisionLanguageModel
from olivine.model.weights import Naming, language_naming, load_weights, tower_naming
from olivine.random_state import RandomState
from olivine.recipe import ModelRecipe, Source, TokenizerRecipe, VisionRecipe
from olivine.registry import locate

#: Towers whose patch tokens follow exactly one class token, which is what transformers' LLaVA drops.
TOWER_TYPES = ("clip_vision_model", "dinov2")
#: Which template a language model was instruction-tuned with, by its model type.
TEMPLATE_OF = {"gemma": "gemma", "llama": "vicuna"}


def build(recipe: ModelRecipe, *, seed: int, texts: Callable[[], Iterable[str]]) -> VisionLanguageModel:
    """Build the model that a recipe describes, in fp32 on the CPU.

    Args:
        recipe: the model section.
        seed: decides every random start.
        texts: what a tokenizer is trained on, asked for only if the recipe has one trained.

    Raises:
        RequestError: a part that cannot be found, fetched or used, with its key in the recipe.
    """
    with RandomState(seed).active():
        return _build(_with_located_parts(recipe), seed, texts)


def _build(recipe: ModelRecipe, seed: int, texts: Callable[[], Iterable[str]]) -> VisionLanguageModel:
    tower = _load_tower(recipe.vision)
    language = _load_language(recipe.language.from_)
    tokenizer = _load_tokenizer(recipe, texts)
    image_token_id = _add_image_token(tokenizer, language, recipe)
    transform = image_transform(recipe.vision, tower.config)
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

    template = recipe.language.template or _template_of(recipe.language.from_, language.config.model_type)
    vlm = VisionLanguageModel(model.eval(), tokenizer, transform, template, image_tokens)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(vlm.encoder().stop_ids),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        do_sample=False,
    )
    return vlm


def _with_located_parts(recipe: ModelRecipe) -> ModelRecipe:
    """The recipe with named sources (`SCHEME:NAME`) replaced by the folders that they stand for."""

    def position(source: Source) -> Source:
        return locate(source) if isinstance(source, str) else source

    language = {"from_": position(recipe.language.from_)}
    if isinstance(recipe.language.tokenizer, str):
        language["tokenizer"] = position(recipe.language.tokenizer)
    return recipe.model_copy(
        update={
            "vision": recipe.vision.model_copy(update={"from_": position(recipe.vision.from_)}),
            "language": recipe.language.model_copy(update=language),
        }
    )


def build_tower(recipe: VisionRecipe) -> tuple[Any, ImageTransform]:
    """The vision tower alone, in fp32 on the CPU, and what fits images to it; random weights have no seed here.

    Raises:
        RequestError: it cannot be found, fetched or used.
    """
    if isinstance(recipe.from_, str):
        recipe = recipe.model_copy(update={"from_": locate(recipe.from_)})
    tower = _load_tower(recipe)
    _check_layer(recipe.layer, tower.config.num_hidden_layers)
    return tower.eval(), image_transform(recipe, tower.config)


def skeleton(recipe: ModelRecipe) -> tuple[Any, int]:
    """The model that `build` would make, without memory: shapes alone, on the meta device; and its image tokens.

    No tokenizer is read: where the language model's own rows would not hold `<image>`, 64 more are taken for granted.

    Raises:
        RequestError: a part whose configuration cannot be found or used.
    """
    recipe = _with_located_parts(recipe)
    tower, language = _tower_config(recipe.vision), _language_config(recipe.language.from_)
    requested = recipe.language.tokenizer
    if not isinstance(requested, TokenizerRecipe) or requested.vocab_size > language.vocab_size:
        rows = requested.vocab_size if isinstance(requested, TokenizerRecipe) else language.vocab_size + 1
        language.vocab_size = -(-rows // 64) * 64
    transform = image_transform(recipe.vision, tower)
    model_class, connector_config = llava_class(recipe.connector)
    config = model_class.config_class(
        vision_config=tower, text_config=language, vision_feature_layer=recipe.vision.layer, **connector_config
    )
    with torch.device("meta"):
        model = model_class(config)
    model.tie_weights()
    return model, (transform.size // tower.patch_size) ** 2


def _tower_config(recipe: VisionRecipe) -> Any:
    """A tower's configuration: the source's own, or that of the tower inside a CLIP or LLaVA-type folder."""
    key = "model.vision.from"
    config = model_config(recipe.from_, key)
    config = getattr(config, "vision_config", config)
    if config.model_type not in TOWER_TYPES:
        raise RequestError(f"{key}: a {config.model_type!r} is no known tower. Valid: {', '.join(TOWER_TYPES)}.")
    return config


def _language_config(source: Source) -> Any:
    """A language model's configuration: the source's own, or that of the one inside a LLaVA-type folder."""
    key = "model.language.from"
    config = model_config(source, key)
    if getattr(config, "vision_config", None) is not None:
        config = getattr(config, "text_config", config)
    if config.model_type not in TEMPLATE_OF:
        raise RequestError(
            f"{key}: a {config.model_type!r} is no known language model. Valid: {', '.join(TEMPLATE_OF)}."
        )
    return config


def _load_tower(recipe: VisionRecipe) -> Any:
    return _load_module(
        AutoModel,
        recipe.from_,
        _tower_config(recipe),
        lambda of_folder, own: tower_naming(of_folder, own.model_type),
        "model.vision.from",
    )


def _load_language(source: Source) -> Any:
    return _load_module(
        AutoModelForCausalLM,
        source,
        _language_config(source),
        lambda of_folder, _own: language_naming(of_folder),
        "model.language.from",
    )


def _load_module(auto: Any, source: Source, config: Any, naming_of: Callable[[Any, Any], Naming], key: str) -> Any:
    """A tower or language model in fp32: random weights for a configuration, a folder's or the hub's for a name."""
    if isinstance(source, dict):
        return understood(lambda: auto.from_config(config, trust_remote_code=False), key)
    naming = naming_of(model_config(source, key), config)
    folder = _verified_folder(source, key)
    return load_weights(_class_of(auto, config, key), folder, config, naming, key=key, dtype=torch.float32)


def _verified_folder(source: str, key: str) -> Path:
    folder = local_folder(source, key, WEIGHTS)
    verify_module_files(folder, WEIGHTS)
    return folder


def _class_of(auto: Any, config: Any, key: str) -> type[Any]:
    """The model class that stands for a configuration; nothing is allocated to find out."""

    def on_meta() -> Any:
        with torch.device("meta"):
            return auto.from_config(config, trust_remote_code=False)

    return type(understood(on_meta, key))


def _load_tokenizer(recipe: ModelRecipe, texts: Callable[[], Iterable[str]]) -> Any:
    requested = recipe.language.tokenizer
    if isinstance(requested, TokenizerRecipe):
        return train_tokenizer(texts(), requested.vocab_size)
    source = requested if requested is not None else recipe.language.from_
    if isinstance(source, dict):
        raise RequestError(
            "model.language.tokenizer: missing; a language model given as a configuration has none of its own. "
            "Name one, or have one trained: tokenizer: {vocab_size: 1024}."
        )
    return load_tokenizer(source, "model.language.tokenizer")


def _add_image_token(tokenizer: Any, language: Any, recipe: ModelRecipe) -> int:
    """Give the language model a row for every id, `<image>` included; returns that id.

    Rows are padded to a multiple of 64, as LLaVA-Gemma's conversion does (256,064 for Gemma). A trained embedding gets
    no other row than that of `<image>`, which is never read; one that starts at random grows to its tokenizer.
    """
    rows: int = language.get_input_embeddings().num_embeddings
    trained = not isinstance(recipe.language.from_, dict) and not isinstance(recipe.language.tokenizer, TokenizerRecipe)
    if trained:
        check_vocabulary_rows(tokenizer, rows, "model.language.tokenizer")
    token_id = image_token(tokenizer)
    if max(len(tokenizer), token_id + 1) > rows:
        language.resize_token_embeddings(max(len(tokenizer), token_id + 1), pad_to_multiple_of=64)
    return token_id


def _check_layer(layer: int, layers: int) -> None:
    if not -(layers + 1) <= layer <= layers:
        raise RequestError(f"model.vision.layer: {layer}; this tower has hidden states {-(layers + 1)} to {layers}.")


def _template_of(source: Source, model_type: str) -> str:
    """The template that a language model knows: written beside it by Olivine, or its family's."""
    if isinstance(source, str):
        folder = local_folder(source, "model.language.from", CONFIGURATION)
        if (folder / COMPANION).is_file():
            return read_companion(folder).template
    return TEMPLATE_OF[model_type]
