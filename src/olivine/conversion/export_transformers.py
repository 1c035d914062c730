"""A model folder for plain transformers, for transformers before 5.4, or for vLLM."""

from pathlib import Path
from typing import Any

import torch

from olivine.conversion.gemma_time import SCALED
from olivine.data.vocabulary import IMAGE_TOKEN
from olivine.errors import RequestError
from olivine.files import read_json, write_json
from olivine.model import checkpoint
from olivine.model.companion import COMPANION
from olivine.model.vlm import VisionLanguageModel

#: What vLLM's LLaVA has.
_VLLM_TOWERS = ("clip_vision_model", "siglip_vision_model")
#: A version before 5.4.
_WRITTEN_FOR = "4.57.6"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def check_plain(config: Any, target: str) -> None:
    """Refuse a model that only `import olivine` makes known.

    Raises:
        RequestError: the message names the module.
    """
    if config.model_type != "llava":
        described = getattr(config, "connector", None)
        what = (
            f"a connector of kind {described['kind']!r}" if described else f"an MLP of depth {config.projector_depth}"
        )
        raise RequestError(
            f"--to {target}: {what} is not in plain transformers; it holds MLPs of depth 1 and 2. The checkpoint "
            "itself loads with `import olivine`."
        )
    if config.vision_config.model_type.startswith("olivine"):
        raise RequestError(
            f"--to {target}: the tower ({config.vision_config.model_type}) is not in plain transformers: fused "
            "towers and dropped registers need `import olivine`."
        )


def check_vllm(config: Any) -> None:
    """Refuse a model whose tower vLLM's LLaVA lacks.

    Raises:
        RequestError: the message names the tower.
    """
    check_plain(config, "vllm")
    tower = config.vision_config.model_type
    if tower not in _VLLM_TOWERS:
        raise RequestError(f"--to vllm: vision tower {tower!r}: vLLM's LLaVA has CLIP and SigLIP alone.")
    if not isinstance(config.vision_feature_layer, int):
        raise RequestError("--to vllm: features of several layers are not supported by its LLaVA with one tower.")


def cast(vlm: VisionLanguageModel, dtype: str) -> None:
    """Give all weights another dtype.

    Raises:
        RequestError: float16 cannot hold them.
    """
    vlm.cast(DTYPES[dtype])
    broken = [name for name, weight in vlm.model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise RequestError(f"--dtype {dtype}: cannot hold {broken[0]} (overflow). Export as bfloat16 or float32.")
    vlm.model.config.dtype = DTYPES[dtype]


def divide_last_layer(vlm: VisionLanguageModel) -> None:
    """Divide the connector's last layer by what transformers before 5.4 multiplies image features by."""
    config = vlm.language.config
    if config.model_type not in SCALED:
        return
    with torch.no_grad():
        for weight in vlm.connector.linear_2.parameters():  # type: ignore[union-attr]
            weight.copy_((weight.double() / config.hidden_size**0.5).to(weight.dtype))


def write_folder(vlm: VisionLanguageModel, folder: Path, *, before_5_4: bool) -> None:
    """Write a model folder: as a checkpoint, without Olivine's own file; `before_5_4` in the form of transformers 4."""
    checkpoint.save(vlm, folder)
    (folder / COMPANION).unlink()
    if before_5_4:
        _older_configurations(folder)


def _older_configurations(folder: Path) -> None:
    """Write what transformers 4 reads under other names or in other files; newer keys stay beside them."""
    config = read_json(folder / "config.json")
    config["torch_dtype"] = config["dtype"]
    config["image_token_id"] = config["image_token_index"]
    config["transformers_version"] = _WRITTEN_FOR  # whoever reads it must know what image features are multiplied by
    text = config["text_config"]
    rope = text.get("rope_parameters") or {}
    if "rope_theta" in rope:
        text["rope_theta"] = rope["rope_theta"]
        kind = rope.get("rope_type", "default")
        text["rope_scaling"] = None if kind == "default" else {k: v for k, v in rope.items() if k != "rope_theta"}
    if text["model_type"] in SCALED:
        text["hidden_activation"] = text["hidden_act"] = text.get("hidden_activation") or text.get("hidden_act")
    write_json(folder / "config.json", config)
    tokenizer = read_json(folder / "tokenizer_config.json")
    extra = tokenizer.get("extra_special_tokens")
    if isinstance(extra, list):
        tokenizer["additional_special_tokens"] = [token for token in extra if token != IMAGE_TOKEN]
        tokenizer["extra_special_tokens"] = {"image_token": IMAGE_TOKEN}
    if tokenizer.get("tokenizer_class") in ("TokenizersBackend", None):
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    tokenizer["model_input_names"] = ["input_ids", "attention_mask"]  # generate refuses token types
    write_json(folder / "tokenizer_config.json", tokenizer)
    processor = read_json(folder / "processor_config.json")
    images = processor.pop("image_processor", None)
    if images is not None:
        write_json(folder / "preprocessor_config.json", {**images, "processor_class": processor["processor_class"]})
    write_json(folder / "processor_config.json", processor)
