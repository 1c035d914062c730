"""LLaVA-1.5's own layout (haotian-liu/LLaVA): a language model's tensors with the projector among them.

Gemma's variant of it is in `llava_gemma`; adapters and lone projectors in `lora` and `projector`.
"""

import re
from collections.abc import Mapping
from typing import Any

from olivine.conversion.layouts.base import Layout, SourceFolder
from olivine.conversion.published import ImportOptions, Published, Repair
from olivine.conversion.raw_tensors import RawTensor, beginning_with
from olivine.conversion.tower_source import complete, tower_tensors, tower_values
from olivine.errors import RequestError
from olivine.recipe import ImageFit

TOWER = ("model.vision_tower.vision_tower.", "model.vision_tower.")
PROJECTOR = "model.mm_projector."
#: Model types of the layout, and the language model inside. "llava" is what the first releases wrote.
LANGUAGES = {"llava_llama": "llama", "llava": "llama", "llama": "llama", "llava_mistral": "mistral"}
#: Keys of the layout's config.json that are no language model's.
_NOT_LANGUAGE = re.compile(
    r"^(mm_|tune_|freeze_|use_mm_|image_|tokenizer_|unfreeze_|pretrain_mm)|^(architectures|auto_map|model_type|"
    r"transformers_version|torch_dtype|dtype|_name_or_path|use_cache|tie_word_embeddings_)$"
)


class LlavaOriginal(Layout):
    """A whole model of LLaVA-1.5."""

    name = "LLaVA-1.5 original"

    def matches(self, folder: SourceFolder) -> bool:
        """By the projector among the tensors, and a language model that is not Gemma."""
        return folder.any_tensor(PROJECTOR) and language_type(folder.values) != "gemma"

    def read(self, folder: SourceFolder, options: ImportOptions) -> Published:
        """Return what the folder holds."""
        return read_original(folder, folder.values, folder.tensors, options, self.name)


def language_type(values: Mapping[str, Any]) -> str:
    """Return the model type of the language model in a config.json of this layout, or of a plain language model."""
    model_type = str(values.get("model_type"))
    return LANGUAGES.get(model_type, model_type.removeprefix("llava_"))


def language_values(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the language model's configuration, complete."""
    own = {name: value for name, value in values.items() if not _NOT_LANGUAGE.search(name)}
    return complete({**own, "model_type": language_type(values)}, where)


def language_tensors(tensors: Mapping[str, RawTensor]) -> dict[str, RawTensor]:
    """Return the language model's tensors, without projector, tower and what is computed."""
    others = (PROJECTOR, "model.vision_tower.", "model.image_newline")
    named = beginning_with({n: t for n, t in tensors.items() if not n.startswith(others)}, "model.")
    named |= {name: tensor for name, tensor in tensors.items() if name.startswith("lm_head.")}
    return {name: tensor for name, tensor in named.items() if not name.endswith("rotary_emb.inv_freq")}


def projector_tensors(tensors: Mapping[str, RawTensor], values: Mapping[str, Any], where: str) -> dict[str, RawTensor]:
    """Return the projector's tensors as `linear_1` and `linear_2`.

    Raises:
        RequestError: a projector of another kind than one linear layer or two with a GELU.
    """
    found = {name.partition("mm_projector.")[2]: tensor for name, tensor in tensors.items() if "mm_projector." in name}
    kind = values.get("mm_projector_type", "linear")
    layers = {"linear": {"": "linear_1."}, "mlp2x_gelu": {"0.": "linear_1.", "2.": "linear_2."}}.get(str(kind))
    if layers is None:
        raise RequestError(f"{where}: mm_projector_type is {kind!r}; importing knows linear and mlp2x_gelu.")
    expected = {f"{old}{part}": f"{new}{part}" for old, new in layers.items() for part in ("weight", "bias")}
    if set(found) != set(expected):
        raise RequestError(
            f"{where}: the projector ({kind}) should hold {', '.join(sorted(expected))}, but holds "
            f"{', '.join(sorted(found)) or 'nothing'}."
        )
    return {new: found[old] for old, new in expected.items()}


def read_original(
    folder: SourceFolder,
    values: Mapping[str, Any],
    tensors: Mapping[str, RawTensor],
    options: ImportOptions,
    name: str,
    language: Mapping[str, RawTensor] | None = None,
    text: Mapping[str, Any] | None = None,
) -> Published:
    """Return a model of the original layout, whose language model may come from elsewhere.

    Args:
        folder: for tokenizer, generation settings and messages.
        values: config.json's, with the `mm_...` keys.
        tensors: where projector and, if stored, tower are.
        options: what the user says.
        name: of the layout.
        language: the language model's tensors; None takes them from `tensors`.
        text: its config.json's values, if they are not among `values`.

    Raises:
        RequestError: something is missing, or of another kind than LLaVA-1.5 has it.
    """
    where = f"{folder.key}: {folder.path / 'config.json'}"
    _check(values, where)
    stored = beginning_with(tensors, *TOWER)
    source = values.get("mm_vision_tower")
    described = tower_values(source, options.tower, bool(stored))
    tower = beginning_with(stored, "vision_model.") or stored
    if not tower:
        tower = tower_tensors(source, options.tower, described.complete["model_type"])
    fit: ImageFit = options.fit or ("pad" if values.get("image_aspect_ratio") == "pad" else "crop")
    published = Published(
        layout=name,
        folder=folder.path,
        text=language_values(values if text is None else text, where),
        vision=described.complete,
        text_as_written=values if text is None else text,
        vision_as_written=described.as_written,
        language=language_tensors(tensors) if language is None else language,
        tower=tower,
        projector=projector_tensors(tensors, values, where),
        tokenizer=options.tokenizer or str(folder.path),
        image_scale=options.image_scale or "one",
        activation="silu",
        fit=fit,
        template=options.template,
        layer=int(values.get("mm_vision_select_layer", -2)),
        projector_activation="linear" if values.get("mm_projector_type", "linear") == "linear" else "gelu",
        preprocessor=described.preprocessor,
        stop_ids=_stop_ids(folder),
        taken=("tower",),
    )
    published.activation = options.activation or published.text["hidden_act"]
    published.repairs.append(
        Repair(
            f"processor written: images fitted by {fit}, {published.strategy} features, prompts padded on the left",
            "the layout has no transformers processor; its own code builds image tensors and pads "
            f"(image_aspect_ratio {values.get('image_aspect_ratio')!r}, tokenizer_padding_side "
            f"{values.get('tokenizer_padding_side', 'right')!r})",
        )
    )
    if not stored:
        published.repairs.append(
            Repair(f"vision tower taken from {options.tower or source}", "the folder holds the name of it alone")
        )
    return published


def _check(values: Mapping[str, Any], where: str) -> None:
    if values.get("image_aspect_ratio") not in (None, "pad", "square"):
        raise RequestError(
            f"{where}: image_aspect_ratio is {values['image_aspect_ratio']!r}: several crops of an image (LLaVA-1.6) "
            "are not supported. Import a LLaVA-1.5 model."
        )
    if values.get("mm_vision_select_feature", "patch") != "patch":
        raise RequestError(f"{where}: mm_vision_select_feature is {values['mm_vision_select_feature']!r}, not 'patch'.")
    if values.get("mm_use_im_start_end") or values.get("mm_use_im_patch_token"):
        raise RequestError(
            f"{where}: the model frames images with tokens of their own (mm_use_im_start_end, mm_use_im_patch_token), "
            "which is not supported."
        )


def _stop_ids(folder: SourceFolder) -> tuple[int, ...]:
    ids = folder.json("generation_config.json").get("eos_token_id", folder.values.get("eos_token_id"))
    if ids is None:
        return ()
    return tuple(int(one) for one in (ids if isinstance(ids, list) else [ids]))
