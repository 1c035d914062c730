"""A model folder without its weights: settings, tokenizer and processor, for whoever writes the weights themselves.

Whole models are saved by `checkpoint`.
"""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import GenerationConfig, LlavaForConditionalGeneration

from olivine.data.images import ImageTransform
from olivine.model import without_progress_bars
from olivine.model.configuration import model_config, understood
from olivine.model.connectors.llava import ConnectorLlava, image_tokens
from olivine.model.hub_names import hub_name
from olivine.model.processor import finish_configs, processor
from olivine.model.streamed_weights import without_weights
from olivine.model.towers.assembly import shown_features
from olivine.model.vlm import VisionLanguageModel


def outline(
    text: dict[str, Any],
    vision: dict[str, Any],
    tokenizer: Any,
    template: str,
    transform: ImageTransform,
    *,
    image_token_id: int,
    layer: int | list[int],
    strategy: str,
    activation: str,
    connector: dict[str, Any] | None,
    stop_ids: Iterable[int],
    key: str,
) -> VisionLanguageModel:
    """Return a LLaVA without weights (parameters on the meta device), with its companions.

    Args:
        text, vision: configuration values, with their `model_type`.
        tokenizer: it has `<image>` as `image_token_id`.
        template: name of the chat template.
        transform: what fits images to the tower.
        layer, strategy: which hidden states are features.
        activation: between the projector's two layers.
        connector: configuration values of one that plain transformers lacks; None for its projector.
        stop_ids: that end a reply besides those of the template.
        key: what messages call the model.

    Raises:
        RequestError: the configurations cannot be meant.
    """
    text_config, vision_config = model_config(text, key), model_config(vision, key)
    features = shown_features(vision_config, strategy, layer, transform.size)
    model_class = LlavaForConditionalGeneration if connector is None else ConnectorLlava
    config = model_class.config_class(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=image_token_id,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        projector_hidden_act=activation,
        **(connector or {}),
        tie_word_embeddings=bool(getattr(text_config, "tie_word_embeddings", False)),
    )
    config.architectures = [model_class.__name__]
    config.image_seq_length = understood(
        lambda: image_tokens(config, features.side, features.extra, features.width), key
    )

    def skeleton() -> Any:
        with without_weights():
            return model_class(config)

    model = understood(skeleton, key)
    model.tie_weights()
    vlm = VisionLanguageModel(model.eval(), tokenizer, transform, template, config.image_seq_length)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted({*vlm.encoder().stop_ids, *stop_ids}),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        do_sample=False,
    )
    return vlm


def expected_tensors(vlm: VisionLanguageModel) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name in a file and shape of every tensor that a folder of this model must hold.

    The keys are the names that a plain LLaVA's would have on the hub.
    """
    config = vlm.model.config
    plain = SimpleNamespace(model_type="llava", vision_config=config.vision_config)
    return {
        hub_name(name, plain): (hub_name(name, config), tuple(weight.shape))
        for name, weight in vlm.model.named_parameters()
    }


def write_settings(folder: Path, vlm: VisionLanguageModel, dtype: torch.dtype) -> None:
    """Write configuration, generation settings, tokenizer and processor into a folder."""
    saved_processor = processor(vlm, vlm.transform)  # first: it may give the model a pad token
    vlm.model.config.dtype = dtype
    with without_progress_bars():
        vlm.model.config.save_pretrained(folder)
        vlm.model.generation_config.save_pretrained(folder)
        saved_processor.save_pretrained(folder)
    finish_configs(folder)
