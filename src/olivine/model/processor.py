"""The transformers processor saved with a model: it prepares images and text as training did.

Weights and the rest of the folder are in `checkpoint`; where plain transformers cannot do the same, docs/images.md
says so.
"""

from pathlib import Path
from typing import Any

from transformers import (
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

from olivine.data.images import ImageTransform
from olivine.data.pieces import ChatTemplate
from olivine.data.vocabulary import IMAGE_TOKEN
from olivine.errors import RequestError
from olivine.files import read_json, write_json
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import ImageFit

#: Keys in which transformers records local paths.
_LOCAL_KEYS = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
#: Pillow's numbers of filters, as transformers writes them.
_FILTERS = {"bicubic": 3, "bilinear": 2}


def processor(vlm: VisionLanguageModel, transform: ImageTransform) -> Any:
    """Return the transformers processor that does what training did; give the model's tokenizer a pad token."""
    _set_pad_token(vlm)
    if hasattr(vlm.tokenizer, "image_token"):  # Gemma 3 has its own, which LlavaProcessor would prefer
        vlm.tokenizer.image_token = IMAGE_TOKEN
    strategy = vlm.model.config.vision_feature_select_strategy
    patch, additional = placeholders(transform.size, vlm.image_tokens, vlm.model.config.vision_config.patch_size)
    return LlavaProcessor(
        image_processor=image_processor(transform),
        tokenizer=vlm.tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=strategy,
        # One of them is the class token, which the default strategy then drops.
        num_additional_image_tokens=additional + (strategy == "default"),
        image_token=IMAGE_TOKEN,
        chat_template=saved_chat_template(vlm.chat_template(), vlm.tokenizer),
    )


def placeholders(size: int, tokens: int, patch: int) -> tuple[int, int]:
    """Return the patch size and extra tokens with which `LlavaProcessor` computes `tokens` for a `size`-pixel image.

    The tower's own patches if their number fits; a larger patch per token if a connector has fewer tokens; one patch of
    the whole image plus additional tokens if they form no grid.
    """
    if tokens >= (size // patch) ** 2:
        return patch, tokens - (size // patch) ** 2
    side = round(tokens**0.5)
    if side * side == tokens and size % side == 0:
        return size // side, 0
    return size, tokens - 1


def image_processor(transform: ImageTransform) -> Any:
    """Return the transformers image processor for a transform: the same pixels, to the bit, for RGB images.

    Raises:
        RequestError: as `require_image_processor`.
    """
    square = {"height": transform.size, "width": transform.size}
    common: dict[str, Any] = {
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
        "crop_size": square,
        "resample": _FILTERS[transform.resample],
    }
    if transform.fit == "squash":
        return CLIPImageProcessorPil(size=square, do_center_crop=False, **common)
    if transform.fit == "letterbox":
        return _letterbox_class()(size=square, min_size=1, do_convert_rgb=True, **common)
    shortest = {"shortest_edge": transform.size}
    if transform.fit == "crop":
        return CLIPImageProcessorPil(size=shortest, **common)
    return LlavaImageProcessorPil(size=shortest, do_pad=True, **common)


def require_image_processor(fit: ImageFit) -> None:
    """Check before training that the processor can be saved.

    Raises:
        RequestError: the installed transformers has no image processor with this fit.
    """
    if fit == "letterbox":
        _letterbox_class()


def _letterbox_class() -> Any:
    """Return DeepSeek-VL's class, the only one that resizes the longer side and then pads with the mean colour."""
    try:
        from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
    except ImportError as error:
        raise RequestError(
            f"image_fit: letterbox: the installed transformers has no image processor for it ({error}). "
            "Install a newer transformers, or torchvision; or choose pad, crop or squash."
        ) from None
    return DeepseekVLImageProcessorPil


def finish_configs(folder: Path) -> None:
    """Correct what transformers wrote into a model folder's configurations.

    Prompts are padded on the left, or batches of several lengths answer wrongly: transformers has a tokenizer in a
    LLaVA folder pad on the right unless its file says otherwise. Local paths are removed from all of them.
    """
    for name in ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            values = _without_local_keys(read_json(path))
            if name == "tokenizer_config.json":
                values["padding_side"] = "left"
                if "image_token" in values.get("model_specific_special_tokens", {}):
                    values["model_specific_special_tokens"]["image_token"] = IMAGE_TOKEN
            write_json(path, values)


def _without_local_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_local_keys(inner) for key, inner in value.items() if key not in _LOCAL_KEYS}
    return [_without_local_keys(inner) for inner in value] if isinstance(value, list) else value


def _set_pad_token(vlm: VisionLanguageModel) -> None:
    """Give a tokenizer without a pad token one: as the last resort the end of sequence, which trainers do not label."""
    tokenizer = vlm.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = (
            "<pad>" if "<pad>" in tokenizer.get_vocab() else tokenizer.unk_token or tokenizer.eos_token
        )
        vlm.model.generation_config.pad_token_id = tokenizer.pad_token_id


def saved_chat_template(template: ChatTemplate, tokenizer: Any) -> str:
    """Return a template's Jinja form; it opens with the beginning of sequence only if the tokenizer does not add it.

    With Gemma's own chat template and a tokenizer that adds `<bos>`, the documented use in two steps gives two of them.
    """
    adds = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return template.jinja if adds or not template.begins else "{{ bos_token }}" + template.jinja
