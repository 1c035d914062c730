"""Folders that transformers' `LlavaForConditionalGeneration` wrote: llava-hf's, Intel's 2B, Olivine's own resaved."""

import re
from collections.abc import Mapping
from typing import Any

from packaging.version import Version

from olivine.conversion.gemma_time import SCALED, activation, image_scale, version_of
from olivine.conversion.layouts.base import Layout, SourceFolder
from olivine.conversion.published import ImportOptions, Published, Repair
from olivine.conversion.raw_tensors import beginning_with
from olivine.conversion.tower_source import complete, own_names
from olivine.data.template import TEMPLATES
from olivine.errors import RequestError
from olivine.model.connectors.llava import OWN_TYPE
from olivine.recipe import ImageFit

_VISION = ("vision_tower.", "model.vision_tower.")
_PROJECTOR = ("multi_modal_projector.", "model.multi_modal_projector.")
_LANGUAGE = ("language_model.model.", "model.language_model.model.", "model.language_model.", "language_model.")
_HEAD = ("lm_head.", "language_model.lm_head.", "model.language_model.lm_head.")


class LlavaHf(Layout):
    """A folder of transformers' LLaVA, in the names of any version."""

    name = "transformers LLaVA"

    def matches(self, folder: SourceFolder) -> bool:
        """By the projector among the tensors and a configuration with two inside."""
        return folder.any_tensor(*_PROJECTOR) and {"text_config", "vision_config"} <= folder.values.keys()

    def read(self, folder: SourceFolder, options: ImportOptions) -> Published:
        """Return what the folder holds."""
        values, where = folder.values, f"{folder.key}: {folder.path / 'config.json'}"
        if values.get("model_type") not in ("llava", OWN_TYPE):
            raise RequestError(
                f"{where}: model_type is {values.get('model_type')!r}; among models with text_config and vision_config "
                f"importing knows 'llava' and Olivine's own {OWN_TYPE!r}."
            )
        vision = complete({"model_type": "clip_vision_model", **values["vision_config"]}, where)
        text = complete({"model_type": "llama", **values["text_config"]}, where)
        processor = _image_processor(folder)
        published = Published(
            layout=self.name,
            folder=folder.path,
            text=text,
            vision=vision,
            text_as_written=values["text_config"],
            vision_as_written=values["vision_config"],
            language={**beginning_with(_without_head(folder), *_LANGUAGE), **_head(folder)},
            tower=own_names(beginning_with(folder.tensors, *_VISION), vision["model_type"]),
            projector=beginning_with(folder.tensors, *_PROJECTOR),
            connector=_connector(values),
            tokenizer=options.tokenizer or str(folder.path),
            image_scale=options.image_scale or "one",
            activation=options.activation or text.get("hidden_act") or text["hidden_activation"],
            fit=options.fit or _fit(processor, folder),
            template=options.template or _template(folder),
            layer=_layer(values, where),
            strategy=values.get("vision_feature_select_strategy") or "default",
            projector_activation=values.get("projector_hidden_act", "gelu"),
            preprocessor=processor,
            image_token_id=values.get("image_token_index", values.get("image_token_id")),
            stop_ids=_stop_ids(folder, text),
        )
        if text["model_type"] in SCALED:
            _as_gemma(published, folder, options, where)
        elif options.fit is None and not _says_padding(processor):
            published.unknown.append(
                f"how images were made square in training: its image processor's {published.fit} is taken; LLaVA-1.5 "
                "was trained with pad (--fit)"
            )
        if text["model_type"] not in SCALED or published.image_scale == "one":
            published.today = folder.tensors
        _mend_processor(published, folder)
        return published


def _as_gemma(published: Published, folder: SourceFolder, options: ImportOptions, where: str) -> None:
    version = version_of(folder.values, where)
    published.image_scale = image_scale(version, options.image_scale, where)
    if published.text["model_type"] != "gemma":
        return
    found, sure = activation(folder.values["text_config"], _trained_under(folder.values, version))
    published.activation = options.activation or found
    if not sure and options.activation is None:
        published.unknown.append(f"the language model's activation in training: {found} is taken (--activation)")
    before = published.image_scale == "sqrt-hidden"
    if before and options.fit is None and not _says_padding(published.preprocessor):
        published.repairs.append(
            Repair(
                f"images fitted by pad instead of {published.fit}",
                "LLaVA-Gemma's second stage padded images to a square; the folder's image processor does not "
                "(--fit crop keeps it)",
            )
        )
        published.fit = "pad"


def _trained_under(values: Mapping[str, Any], version: Version | None) -> Version | None:
    """Return the version that training's activation goes by: a converted Intel folder's `hidden_activation` says it.

    Their conversion wrote `hidden_act` "gelu_pytorch_tanh" and `hidden_activation` "gelu" for a model of 4.39.0.dev0.
    """
    converted = values["text_config"].get("hidden_activation") == "gelu"
    return Version("4.41") if converted and (version is None or version < Version("5.4")) else version


def _connector(values: Mapping[str, Any]) -> dict[str, Any] | None:
    if values["model_type"] == "llava":
        return None
    return {name: values[name] for name in ("connector", "projector_depth") if name in values}


def _without_head(folder: SourceFolder) -> dict[str, Any]:
    return {n: t for n, t in folder.tensors.items() if not n.startswith(_HEAD) and not _computed(n)}


def _computed(name: str) -> bool:
    return re.search(r"(rotary_emb\.inv_freq|position_ids)$", name) is not None


def _head(folder: SourceFolder) -> dict[str, Any]:
    return {f"lm_head.{name}": tensor for name, tensor in beginning_with(folder.tensors, *_HEAD).items()}


def _layer(values: Mapping[str, Any], where: str) -> int | list[int]:
    layer: int | list[int] = values.get("vision_feature_layer", -2)
    if not all(isinstance(each, int) for each in (layer if isinstance(layer, list) else [layer])):
        raise RequestError(f"{where}: vision_feature_layer is {layer!r}; expected a whole number, or several.")
    return layer


def _image_processor(folder: SourceFolder) -> dict[str, Any]:
    whole = folder.json("processor_config.json").get("image_processor")
    return whole if isinstance(whole, dict) and whole else folder.json("preprocessor_config.json")


def _says_padding(processor: Mapping[str, Any]) -> bool:
    return bool(processor.get("do_pad")) or str(processor.get("image_processor_type", "")).startswith("DeepseekVL")


def _fit(processor: Mapping[str, Any], folder: SourceFolder) -> ImageFit:
    """Return how an image processor makes images square.

    Raises:
        RequestError: it does so in a way that no fit has.
    """
    if str(processor.get("image_processor_type", "")).startswith("DeepseekVL"):
        return "letterbox"
    if processor.get("do_pad"):
        return "pad"
    size = processor.get("size")
    if isinstance(size, dict) and "height" in size and not processor.get("do_center_crop"):
        return "squash"
    shortest = size.get("shortest_edge") if isinstance(size, dict) else size
    crop = processor.get("crop_size", shortest)
    side = crop.get("height") if isinstance(crop, dict) else crop
    if (
        shortest != side
        or processor.get("do_center_crop", True) is not True
        or processor.get("do_resize", True) is not True
    ):
        raise RequestError(
            f"{folder.key}: {folder.path}: its image processor resizes to {size!r}, then crops to {crop!r} "
            f"(do_center_crop {processor.get('do_center_crop')!r}, do_resize {processor.get('do_resize')!r}), "
            "which is none of pad, crop, squash and letterbox. Say how images were made square in training: --fit."
        )
    return "crop"


def _template(folder: SourceFolder) -> str | None:
    """Return the template whose Jinja form the folder has, opened by the beginning of sequence or not."""
    file = folder.path / "chat_template.jinja"
    stored = file.read_text(encoding="utf-8") if file.is_file() else None
    stored = stored or folder.json("chat_template.json").get("chat_template")
    stored = stored or folder.json("tokenizer_config.json").get("chat_template")
    for name, template in TEMPLATES.items():
        if isinstance(stored, str) and stored.removeprefix("{{ bos_token }}") == template.jinja:
            return name
    return None


def _stop_ids(folder: SourceFolder, text: Mapping[str, Any]) -> tuple[int, ...]:
    ids = folder.json("generation_config.json").get("eos_token_id", text.get("eos_token_id"))
    if ids is None:
        return ()
    return tuple(int(one) for one in (ids if isinstance(ids, list) else [ids]))


def _mend_processor(published: Published, folder: SourceFolder) -> None:
    fields = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    own = folder.json("processor_config.json")
    absent = [name for name in fields if own.get(name) is None]
    if absent:
        published.repairs.append(
            Repair(
                f"processor fields set: {', '.join(absent)}",
                "transformers from 4.52 on has the processor write one <image> for each image token, and divides by "
                "nothing without them",
            )
        )
    if folder.json("tokenizer_config.json").get("padding_side") != "left":
        published.repairs.append(
            Repair("prompts padded on the left", "batches of several lengths answer wrongly when padded on the right")
        )
