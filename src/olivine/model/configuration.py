"""A module's configuration, read and checked before anything is built from it.

No code that comes with a folder is run: every read passes `trust_remote_code=False`. Weights are in `weights`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from transformers import CONFIG_MAPPING, AutoConfig

from olivine.errors import OlivineError, RequestError
from olivine.files import read_json
from olivine.model.hub import CONFIGURATION, local_folder
from olivine.recipe import Source
from olivine.registry import locate

T = TypeVar("T")
#: The largest plausible value of each size; published models are far below.
_LARGEST = {
    "hidden_size": 2**17,
    "intermediate_size": 2**19,
    "num_hidden_layers": 1000,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 2**14,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**31,
    "image_size": 2**14,
    "patch_size": 2**12,
    "num_channels": 64,
    "mlp_ratio": 64,
}
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def model_config(source: Source, key: str) -> Any:
    """Return the transformers configuration of a module; `key` is its name in messages.

    Raises:
        RequestError: it cannot be found, fetched or read; it needs its own code; a size in it is impossible.
    """
    if isinstance(source, str):
        return folder_config(local_folder(locate(source), key, CONFIGURATION), key)
    values = dict(source)
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise RequestError(f"{key}: a configuration needs model_type (and its sizes).")
    _check_values(source, key)
    config = understood(lambda: AutoConfig.for_model(model_type, **values), key)
    check_sizes(config, key)
    return config


def folder_config(folder: Path, key: str) -> Any:
    """Return the configuration in a folder's config.json.

    Raises:
        RequestError: as for `model_config`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RequestError(f"{key}: {folder} has no config.json. Give a folder in transformers' layout.")
    values = read_json(path)
    where = f"{key}: {path}"
    if not isinstance(values, dict):
        raise RequestError(f"{where}: expected an object, found a {type(values).__name__}.")
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise RequestError(f"{where}: model_type is missing. Give a folder in transformers' layout.")
    if model_type not in CONFIG_MAPPING:
        own = " It comes with its own code (auto_map), which is never run." if "auto_map" in values else ""
        raise RequestError(f"{where}: transformers does not know the model type {model_type!r}.{own}")
    _check_values(values, where)
    config = understood(lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False), where)
    for section in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
        if section is not None:
            check_sizes(section, where)
    return config


def check_sizes(config: Any, where: str) -> None:
    """Refuse a configuration from which no model can be built, before memory is allocated.

    Raises:
        RequestError: a size that is not a positive integer or far beyond any model; heads that do not divide evenly.
    """
    for name, largest in _LARGEST.items():
        value = getattr(config, name, None)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise RequestError(f"{where}: {name} is {value!r}; expected a whole number from 1 to {largest:,}.")
    heads, shared = getattr(config, "num_attention_heads", None), getattr(config, "num_key_value_heads", None)
    if heads and shared and heads % shared:
        raise RequestError(f"{where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {shared}.")
    hidden = getattr(config, "hidden_size", None)
    if heads and hidden and getattr(config, "head_dim", None) is None and hidden % heads:
        raise RequestError(f"{where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}.")
    image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if image and patch and patch > image:
        raise RequestError(f"{where}: patch_size {patch} is larger than image_size {image}.")


def understood(read: Callable[[], T], where: str) -> T:
    """Return what a library reads from an untrusted file, turning any exception into one message.

    Raises:
        RequestError: it cannot be read; the message starts with `where`.
    """
    try:
        return read()
    except OlivineError:
        raise
    except Exception as error:  # parsers of untrusted files may raise anything, even a bare `Exception`
        raise RequestError(f"{where}: {_one_line(error)}") from None


def _check_values(values: Mapping[str, Any], where: str) -> None:
    """Refuse keys that would load code, or other arithmetic than that of this configuration's model type."""
    for section in (values, values.get("vision_config"), values.get("text_config")):
        if not isinstance(section, Mapping):
            if section is not None:
                raise RequestError(f"{where}: vision_config and text_config must be objects.")
            continue
        if section.get("quantization_config") is not None:
            raise RequestError(
                f"{where}: the weights are quantised (quantization_config). Give the model in float32, float16 or "
                "bfloat16."
            )
        for name in _ATTENTION:
            if isinstance(section.get(name), str) and "/" in section[name]:
                raise RequestError(
                    f"{where}: {name} names code on the hub ({section[name]!r}), which is never run. Remove the key."
                )


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
