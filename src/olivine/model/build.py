"""From a recipe's model section to a `VisionLanguageModel`: modules loaded or initialised at random, then assembled.

Saving and loading whole models is in `checkpoint`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from olivine.data.template import TEMPLATES
from olivine.data.vocabulary import train_tokenizer
from olivine.errors import RequestError
from olivine.model.companion import COMPANION, read_companion, verify_module_files
from olivine.model.configuration import model_config, understood
from olivine.model.connectors.base import Shape
from olivine.model.connectors.llava import initialise, llava_class
from olivine.model.connectors.stored import check_connector, copy_connector, read_connector
from olivine.model.encoders import chat_template, template_encoder
from olivine.model.hub import CONFIGURATION, WEIGHTS, local_folder
from olivine.model.languages.registry import language_family
from olivine.model.languages.traits import language_traits
from olivine.model.tokenizers import check_vocabulary_rows
from olivine.model.tokenizers import image_token as image_token
from olivine.model.tokenizers import load_tokenizer as load_tokenizer
from olivine.model.towers.assembly import TowerPlan, class_of, load_tower, plan_tower
from olivine.model.vlm import VisionLanguageModel, stop_ids_of
from olivine.model.weights import language_naming, load_weights
from olivine.model.whole_start import check_start, load_start, start_skeleton
from olivine.random_state import RandomState
from olivine.recipe import ModelRecipe, Source, TokenizerRecipe, VisionRecipe
from olivine.registry import locate

#: The key of the model's own chat template, which messages advise to set.
_TEMPLATE = "model.language.template"


def build(recipe: ModelRecipe, *, seed: int, texts: Callable[[], Iterable[str]]) -> VisionLanguageModel:
    """Build the model that a recipe describes, in fp32 on the CPU.

    Args:
        recipe: the model section.
        seed: decides every random initialisation.
        texts: what a tokenizer is trained on, called only if the recipe trains one.

    Raises:
        RequestError: a module that cannot be found, fetched or used, with its key in the recipe.
    """
    if recipe.from_ is not None:
        return load_start(recipe.from_)
    with RandomState(seed).active():
        return _build(_with_located_parts(recipe), seed, texts)


def check_buildable(recipe: ModelRecipe, templates: Mapping[str, str]) -> None:
    """Refuse what `build` would, as far as configurations and the tokenizer tell; no weights and no data are read.

    Args:
        recipe: the model section.
        templates: those that will be used besides the model's own, by their keys in the recipe.

    Raises:
        RequestError: a part that cannot be found or used, or a template that the tokenizer cannot write.
    """
    if recipe.from_ is not None:
        check_start(recipe.from_, templates)
        return
    recipe = _with_located_parts(recipe)
    plan, language = plan_tower(recipe.vision), _language_config(recipe.language.from_)
    model_class, connector_config = llava_class(recipe.connector, _shape(plan, language))
    if recipe.connector.from_ is not None:
        model = _on_meta(model_class, plan, language, connector_config)
        check_connector(read_connector(recipe.connector.from_), recipe.connector, model)
    # Which special tokens a trained tokenizer has does not depend on the texts.
    tokenizer = _load_tokenizer(recipe, lambda: ("a",))
    if _is_trained(recipe):
        check_vocabulary_rows(tokenizer, language.vocab_size, "model.language.tokenizer")
    own = recipe.language.template or _template_of(recipe.language.from_, language, tokenizer)
    image = {"image_token_id": image_token(tokenizer), "image_tokens": connector_config["image_seq_length"]}
    for key, name in {_TEMPLATE: own, **templates}.items():
        try:
            template_encoder(chat_template(tokenizer, name), tokenizer, **image)
        except RequestError as error:
            raise RequestError(f"{key}: {str(error).replace(_TEMPLATE, key)}") from None


def _build(recipe: ModelRecipe, seed: int, texts: Callable[[], Iterable[str]]) -> VisionLanguageModel:
    plan = plan_tower(recipe.vision)
    model_class, connector_config = llava_class(recipe.connector, _shape(plan, _language_config(recipe.language.from_)))
    tokenizer = _load_tokenizer(recipe, texts)
    tower = load_tower(plan)
    language = _load_language(recipe.language.from_)
    image_token_id = _add_image_token(tokenizer, language, recipe)
    config = model_class.config_class(
        vision_config=tower.config,
        text_config=language.config,
        image_token_index=image_token_id,
        vision_feature_layer=plan.layer,
        vision_feature_select_strategy=plan.strategy,
        **connector_config,
    )
    # The skeleton takes no memory; only the connector is created here, everything else is already loaded.
    with torch.device("meta"):
        model = model_class(config)
    model.model.vision_tower = tower
    model.model.language_model = language.model
    model.lm_head = language.lm_head
    model.model.multi_modal_projector.to_empty(device="cpu")
    initialise(model.model.multi_modal_projector, recipe.connector, torch.Generator().manual_seed(seed))
    if recipe.connector.from_ is not None:
        stored = read_connector(recipe.connector.from_, verified=True)
        check_connector(stored, recipe.connector, model)
        copy_connector(stored, model.model.multi_modal_projector)
    model.tie_weights()
    if language_traits(language.config).cap is not None:
        # Newer versions of transformers choose eager mode themselves; older ones SDPA, which ignores the cap.
        model.model.language_model.set_attn_implementation("eager")

    template = recipe.language.template or _template_of(recipe.language.from_, language.config, tokenizer)
    vlm = VisionLanguageModel(model.eval(), tokenizer, plan.transform, template, config.image_seq_length)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted({*vlm.encoder().stop_ids, *_own_stop_ids(recipe, language)}),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        do_sample=False,
    )
    return vlm


def _with_located_parts(recipe: ModelRecipe) -> ModelRecipe:
    """Return the recipe with named sources (`SCHEME:NAME`) replaced by the folders that they stand for."""

    def folder_or_id(source: Source) -> Source:
        return locate(source) if isinstance(source, str) else source

    language = {"from_": folder_or_id(recipe.language.from_)}
    if isinstance(recipe.language.tokenizer, str):
        language["tokenizer"] = folder_or_id(recipe.language.tokenizer)
    return recipe.model_copy(
        update={
            "vision_": _with_located_towers(recipe.vision),
            "language_": recipe.language.model_copy(update=language),
        }
    )


def _with_located_towers(recipe: VisionRecipe) -> VisionRecipe:
    found = tuple(locate(source) if isinstance(source, str) else source for source in recipe.sources)
    return recipe.model_copy(update={"from_": found[0]} if recipe.fused is None else {"fused": found})


def _shape(plan: TowerPlan, language: Any) -> Shape:
    features = plan.features
    return Shape(features.side, features.extra, features.width, language.hidden_size)


def build_tower(recipe: VisionRecipe) -> tuple[Any, TowerPlan]:
    """Return the vision tower alone, in fp32 on the CPU, and its plan; random weights have no seed here.

    Raises:
        RequestError: it cannot be found, fetched or used.
    """
    plan = plan_tower(_with_located_towers(recipe))
    return load_tower(plan).eval(), plan


def skeleton(recipe: ModelRecipe) -> tuple[Any, TowerPlan]:
    """Return the model that `build` would make, on the meta device (shapes without memory), and its tower's plan.

    No tokenizer is read: if the language model's own rows have no space for `<image>`, 64 more are assumed.

    Raises:
        RequestError: a module whose configuration cannot be found or used.
    """
    if recipe.from_ is not None:
        return start_skeleton(recipe.from_)
    recipe = _with_located_parts(recipe)
    plan, language = plan_tower(recipe.vision), _language_config(recipe.language.from_)
    requested = recipe.language.tokenizer
    if not isinstance(requested, TokenizerRecipe) or requested.vocab_size > language.vocab_size:
        rows = requested.vocab_size if isinstance(requested, TokenizerRecipe) else language.vocab_size + 1
        language.vocab_size = -(-rows // 64) * 64
    model_class, connector_config = llava_class(recipe.connector, _shape(plan, language))
    model = _on_meta(model_class, plan, language, connector_config)
    model.tie_weights()
    return model, plan


def _on_meta(model_class: type[Any], plan: TowerPlan, language: Any, connector_config: Mapping[str, Any]) -> Any:
    config = model_class.config_class(
        vision_config=plan.config,
        text_config=language,
        vision_feature_layer=plan.layer,
        vision_feature_select_strategy=plan.strategy,
        **connector_config,
    )
    with torch.device("meta"):
        return model_class(config)


def _language_config(source: Source) -> Any:
    """Return a language model's configuration: the source's own, or that of the one inside a LLaVA-type folder."""
    key = "model.language.from"
    config = model_config(source, key)
    if getattr(config, "vision_config", None) is not None:
        config = getattr(config, "text_config", config)
    language_family(config.model_type, key).check(config, key)
    return config


def _load_language(source: Source) -> Any:
    key, config = "model.language.from", _language_config(source)
    if isinstance(source, dict):
        return understood(lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=False), key)
    naming = language_naming(model_config(source, key))
    folder = local_folder(source, key, WEIGHTS)
    verify_module_files(folder, WEIGHTS)
    model_class = class_of(lambda c: AutoModelForCausalLM.from_config(c, trust_remote_code=False), config, key)
    return load_weights(model_class, folder, config, naming, key=key, dtype=torch.float32)


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

    Rows are padded to a multiple of 64, as LLaVA-Gemma's conversion does (256,064 for Gemma). A pretrained embedding
    gets no new row but that of `<image>`, which is never read; a random one is enlarged to fit its tokenizer.
    """
    rows: int = language.get_input_embeddings().num_embeddings
    if _is_trained(recipe):
        check_vocabulary_rows(tokenizer, rows, "model.language.tokenizer")
    token_id = image_token(tokenizer)
    if max(len(tokenizer), token_id + 1) > rows:
        language.resize_token_embeddings(max(len(tokenizer), token_id + 1), pad_to_multiple_of=64)
    return token_id


def _is_trained(recipe: ModelRecipe) -> bool:
    """Whether the language model comes with weights, so that its token table has a row for each id of a tokenizer."""
    return not isinstance(recipe.language.from_, dict) and not isinstance(recipe.language.tokenizer, TokenizerRecipe)


def _template_of(source: Source, config: Any, tokenizer: Any) -> str:
    """Return the template that a language model knows: written beside it by Olivine, or its family's."""
    if isinstance(source, str):
        folder = local_folder(source, "model.language.from", CONFIGURATION)
        if (folder / COMPANION).is_file():
            return read_companion(folder).template
    family = language_family(config.model_type)
    return family.template(tokenizer.get_vocab().keys(), TEMPLATES.keys(), _TEMPLATE)


def _own_stop_ids(recipe: ModelRecipe, language: Any) -> list[int]:
    """Return the stop tokens of the language model's own generation settings; none if another tokenizer is used."""
    if isinstance(recipe.language.from_, dict) or recipe.language.tokenizer is not None:
        return []
    return stop_ids_of(language.generation_config)
