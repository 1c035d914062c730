"""Checked loading: a module's weights must be complete, of the right shapes and finite, or loading is refused by name.

Only safetensors are opened, never a pickle. How folders are fetched is in `hub`; checksums are in `companion`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from olivine.errors import RequestError
from olivine.files import read_json
from olivine.model import quiet_loading
from olivine.model.configuration import understood

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: Files that hold weights as pickles, or for other libraries.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
#: Buffers that older versions of transformers saved and newer ones compute.
_COMPUTED = re.compile(r"(^|\.)(position_ids|rotary_emb\.inv_freq|rotary_pos_emb\.inv_freq)$")
_FLOATS = {"F64", "F32", "F16", "BF16"}
#: The most names in one message.
_NAMED = 4


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: where it is, its shape and its safetensors dtype."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Naming:
    """Which tensors of a folder belong to a module, and their names in it.

    Attributes:
        renamed: patterns of names in files to names in the model, as transformers' `key_mapping` takes them.
        inside: names that are the module's; None for all of them.
        spare: names of the module's folder that the module does not use (heads of other tasks).
    """

    renamed: Mapping[str, str]
    inside: re.Pattern[str] | None = None
    spare: re.Pattern[str] | None = None

    def own(self, name: str) -> bool:
        """Return whether a tensor of this name must be used."""
        if _COMPUTED.search(name) or (self.spare is not None and self.spare.search(name)):
            return False
        return self.inside is None or self.inside.search(name) is not None


#: transformers' CLIP and SigLIP have their layers inside `vision_model` up to some version and at the top since; both
#: are on disks.
CLIP_LAYERS = ("embeddings", "encoder", "pre_layrnorm", "post_layernorm")
SIGLIP_LAYERS = ("embeddings", "encoder", "post_layernorm", "head")
INNER_LAYERS = {"clip_vision_model": CLIP_LAYERS, "siglip_vision_model": SIGLIP_LAYERS}
IN_LLAVA = re.compile(r"^(model\.)?vision_tower\.")
IN_LLAVA_PREFIX = r"^(model\.)?vision_tower\.(vision_model\.)?"


def naming_inside(
    of_folder: Any, whole_type: str, layers: Iterable[str], *, spare: re.Pattern[str] | None = None
) -> Naming:
    """Return the naming of a tower whose layers lie in `vision_model` in some versions of transformers.

    Args:
        of_folder: the folder's configuration: the tower's own, that of image and text together, a LLaVA type's.
        whole_type: the model type of image and text together.
        layers: the tower's modules.
        spare: as `Naming` has it, in a folder of the tower alone.
    """
    if of_folder.model_type == whole_type:
        return Naming({}, inside=re.compile(r"^vision_model\."))
    if getattr(of_folder, "text_config", None) is not None:
        return Naming({IN_LLAVA_PREFIX: "vision_model."}, inside=IN_LLAVA)
    # With the longer names every version of transformers finds them.
    return Naming({rf"^{layer}\.": f"vision_model.{layer}." for layer in layers}, spare=spare)


def language_naming(config: Any) -> Naming:
    """Return the naming of a language model in a folder of the given configuration: itself, or a LLaVA type."""
    if getattr(config, "vision_config", None) is None:
        return Naming({})
    renamed = {
        r"^(model\.)?language_model\.(model\.)?(?!lm_head)": "model.",
        r"^language_model\.lm_head": "lm_head",
    }
    return Naming(renamed, inside=re.compile(r"^((model\.)?language_model\.|lm_head\.)"))


def whole_naming(config: Any, names: Iterable[str]) -> Naming:
    """Return the naming of a whole LLaVA folder that holds tensors of these names.

    Patterns have no groups: transformers turns them round when the model is saved again.
    """
    layers = INNER_LAYERS.get(config.vision_config.model_type, ())
    prefixes = [
        f"{tower}{layer}."
        for tower in ("vision_tower.", "model.vision_tower.")
        for layer in layers
        if any(name.startswith(f"{tower}{layer}.") for name in names)
    ]
    longer = {prefix: f"model.vision_tower.vision_model.{prefix.partition('vision_tower.')[2]}" for prefix in prefixes}
    return Naming({f"^{prefix}": name for prefix, name in longer.items()})


def load_weights(
    model_class: Any, folder: Path, config: Any, naming: Naming, *, key: str, dtype: torch.dtype | str
) -> Any:
    """Load a part from a folder, on the CPU, with every weight of it read from the files.

    Args:
        model_class: a transformers model class.
        folder: holds the safetensors, of this part or of a whole model with it inside.
        config: the part's own configuration.
        naming: which tensors are the part's.
        key: what messages call it.
        dtype: of the weights in memory; "auto" keeps that of the files.

    Raises:
        RequestError: weights are missing, unexpected, of another shape or not finite; files are damaged or pickled.
    """
    tensors = tensors_in(folder, key)
    own = {name: held for name, held in tensors.items() if naming.own(name)}
    where = f"{key}: {folder}"
    _check_floats(own, where)
    _check_size(model_class, config, own, where)
    _check_tied(own, config, where)
    with quiet_loading():
        model, report = understood(
            lambda: model_class.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                key_mapping=dict(naming.renamed) or None,
                attn_implementation=_attention(config),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                # Read from the report below, with names; transformers itself would name none.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            ),
            where,
        )
    _check_report({**report, "unexpected_keys": _unexpected(report["unexpected_keys"], own, naming)}, where)
    _check_finite(model, where)
    return model


def _attention(config: Any) -> str | dict[str, str]:
    """SDPA, but for a language model with softly capped scores, which transformers computes in eager mode alone."""
    text = getattr(config, "text_config", None)
    if getattr(text or config, "attn_logit_softcapping", None) is None:
        return "sdpa"
    return "eager" if text is None else {"": "sdpa", "text_config": "eager"}


def tensors_in(folder: Path, key: str) -> dict[str, StoredTensor]:
    """Return every tensor of a folder's safetensors by name, from the files' headers alone.

    Raises:
        RequestError: there are none, or pickles in their place; a file is damaged, missing or outside the folder.
    """
    where = f"{key}: {folder}"
    if (folder / "adapter_config.json").exists():
        raise RequestError(
            f"{where}: holds an adapter (adapter_config.json), not a whole model. Merge it into its base model and "
            "give that folder."
        )
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder, where):
        for name, held in tensors_of_file(file, key).items():
            if name in tensors:
                raise RequestError(f"{where}: tensor {name!r} is in {tensors[name].file.name} and in {file.name}.")
            tensors[name] = held
    return tensors


def _weight_files(folder: Path, where: str) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if index.is_file():
        return indexed_files(folder, index, where)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise RequestError(
            f"{where}: its weights are pickled ({pickles[0]}), which is never opened: a pickle can run code. Convert "
            f"them, if you trust where they come from: python -m olivine.model.pickled {folder} --output DIR"
        )
    raise RequestError(f"{where}: no weights there; expected {SINGLE}, or {INDEX} and its files.")


def indexed_files(folder: Path, index: Path, where: str) -> list[Path]:
    """Return the files that an index of weights names.

    Raises:
        RequestError: it cannot be read, or names files that are not there or not in the folder.
    """
    values = read_json(index)
    positions = values.get("weight_map") if isinstance(values, dict) else None
    if (
        not isinstance(positions, dict)
        or not positions
        or not all(isinstance(name, str) for name in positions.values())
    ):
        raise RequestError(f"{where}: {index.name} has no weight_map from tensors to files.")
    names = sorted(set(positions.values()))
    for name in names:
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise RequestError(f"{where}: {index.name} names {name!r}, which is no file of the folder.")
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise RequestError(
            f"{where}: {index.name} names {_list(absent)}, which {'is' if len(absent) == 1 else 'are'} not there "
            f"({len(absent)} of {len(names)} files). Fetch the folder again."
        )
    return [folder / name for name in names]


def tensors_of_file(file: Path, key: str) -> dict[str, StoredTensor]:
    """Return the tensors of a file; safetensors checks its header, and that tensors neither overlap nor leave gaps."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
            return {
                name: StoredTensor(file, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
    except Exception as error:  # SafetensorError is no OSError; an unknown dtype raises something else again
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{key}: {file}: damaged or cut short ({reason}). Fetch or write it again.") from None


def _check_floats(own: Mapping[str, StoredTensor], where: str) -> None:
    other = [name for name, held in own.items() if held.dtype not in _FLOATS]
    if other:
        kinds = sorted({own[name].dtype for name in other})
        raise RequestError(
            f"{where}: {len(other)} weights are {', '.join(kinds)} ({_list(other)}). Give the model in float32, "
            "float16 or bfloat16."
        )


def _check_size(model_class: Any, config: Any, own: Mapping[str, StoredTensor], where: str) -> None:
    """Compare the configuration's number of weights with the files' before memory is asked for."""

    def described() -> int:
        with torch.device("meta"):
            model = model_class(config)
        return sum(parameter.numel() for parameter in model.parameters())

    weights, held = understood(described, where), sum(_numel(tensor.shape) for tensor in own.values())
    # Smaller differences are told by name after loading; more than this could exhaust the memory before.
    if weights - held > max(2**28, held):
        raise RequestError(
            f"{where}: config.json describes {weights:,} weights, but the files hold {held:,} of this part. Fetch the "
            "folder again, or give the configuration that belongs to these files."
        )


def _check_tied(own: Mapping[str, StoredTensor], config: Any, where: str) -> None:
    """Refuse two different tables where the configuration says that they are one: either would be dropped."""
    if not getattr(config, "tie_word_embeddings", False):
        return
    tables = [name for name in own if name.endswith("embed_tokens.weight")]
    heads = [name for name in own if name.endswith("lm_head.weight")]
    if len(tables) != 1 or len(heads) != 1:
        return
    table, head = _read(own[tables[0]], tables[0]), _read(own[heads[0]], heads[0])
    if not torch.equal(table, head):
        raise RequestError(
            f"{where}: config.json ties {heads[0]} to {tables[0]} (tie_word_embeddings), but the files hold two "
            "different tensors. Set tie_word_embeddings to false there."
        )


def _unexpected(reported: Iterable[str], own: Mapping[str, StoredTensor], naming: Naming) -> list[str]:
    """Return the tensors that should have been the module's; the report holds those of other modules too."""
    names = [name for name in reported if not _COMPUTED.search(name)]
    if naming.inside is None:
        return [name for name in names if naming.own(name)]
    # transformers reports names after some of its own renaming, so that those of other parts cannot be looked up.
    renamed = set(own)
    for pattern, name in naming.renamed.items():
        renamed |= {re.sub(pattern, name, each) for each in own}
    return [name for name in names if any(f".{each}".endswith(f".{name}") for each in renamed)]


def _check_report(report: Mapping[str, Any], where: str) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise RequestError(
            f"{where}: {len(missing)} weights are missing ({_list(missing)}). Fetch or write the folder again; random "
            "weights are never put in their place."
        )
    other = sorted(report["mismatched_keys"])
    if other:
        differences = [f"{name} is {list(found)}, expected {list(requested)}" for name, found, requested in other]
        raise RequestError(
            f"{where}: {len(other)} weights have another shape than config.json says ({_list(differences, '; ')}). "
            "Give the configuration that belongs to these files."
        )
    unexpected = sorted(report["unexpected_keys"])
    if unexpected:
        raise RequestError(
            f"{where}: {len(unexpected)} weights have no place in the model that config.json describes "
            f"({_list(unexpected)}). Give the configuration that belongs to these files."
        )
    if report.get("error_msgs"):
        raise RequestError(f"{where}: {report['error_msgs'][0]}")


def _check_finite(model: Any, where: str) -> None:
    # The extremes carry every NaN and infinity, and take a tenth of the time of `isfinite` over all values.
    broken = [
        name
        for name, weight in model.named_parameters()
        if weight.numel() and not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(weight.detach()))
    ]
    if broken:
        raise RequestError(
            f"{where}: {len(broken)} weights hold values that are no numbers (NaN or infinity): {_list(broken)}. "
            "The folder is damaged, or its training diverged; give another one."
        )


def _read(held: StoredTensor, name: str) -> torch.Tensor:
    with safe_open(held.file, framework="pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
    return tensor


def _numel(shape: Iterable[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _list(names: Iterable[str], separator: str = ", ") -> str:
    """Return the first few names, and that there are more."""
    names = list(names)
    more = f"{separator}..." if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + more
