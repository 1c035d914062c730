"""LLaVA's LoRA folders: an adapter of the language model, `non_lora_trainables.bin`, and a base elsewhere."""

import re
from typing import Any

from olivine.conversion.layouts.base import Layout, SourceFolder
from olivine.conversion.layouts.llava_gemma import as_gemma
from olivine.conversion.layouts.llava_original import language_tensors, read_original
from olivine.conversion.layouts.projector import FILE, base_folder
from olivine.conversion.published import Adapter, ImportOptions, Published, Repair
from olivine.conversion.raw_tensors import RawTensor, tensors_in_file
from olivine.errors import RequestError

_REST = "non_lora_trainables.bin"
_PEFT = "base_model.model."
_UPDATE = re.compile(r"^base_model\.model\.model\.(?P<layer>layers\..+)\.lora_(?P<side>[AB])(\.default)?\.weight$")
#: Options of peft that change what an adapter stands for, and the values that do not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "layer_replication": (None,),
}


class Lora(Layout):
    """What LLaVA's finetune_lora.sh leaves."""

    name = "LLaVA LoRA"

    def matches(self, folder: SourceFolder) -> bool:
        """By the adapter and the other trained tensors beside it."""
        return folder.has("adapter_config.json") and folder.has(_REST, FILE)

    def read(self, folder: SourceFolder, options: ImportOptions) -> Published:
        """Return base and adapter; the update is added to the weights while they are written."""
        settings = folder.json("adapter_config.json")
        base = base_folder(options.base or settings.get("base_model_name_or_path"), folder)
        rest = folder.path / (_REST if folder.has(_REST) else FILE)
        trained = {_without_peft(name): t for name, t in tensors_in_file(rest, folder.key).items()}
        values = {**base.values, **folder.values}
        published = read_original(
            folder,
            values,
            {**{name: t for name, t in base.tensors.items() if "vision_tower." in name}, **trained},
            options,
            self.name,
            language={**language_tensors(base.tensors), **language_tensors(trained)},
        )
        published.taken = ("base", "tower")
        published.tokenizer = options.tokenizer or str(folder.path if folder.has(*_VOCABULARY) else base.path)
        published.adapters = _adapters(folder, settings, published.language)
        published.repairs.append(
            Repair(
                f"{len(published.adapters)} low-rank updates added to the weights of {base.path.name}",
                "a LLaVA folder of transformers holds whole weights",
            )
        )
        if published.text["model_type"] == "gemma":
            as_gemma(published, folder, options)
        return published


_VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json")


def _without_peft(name: str) -> str:
    return name.removeprefix(_PEFT)


def _adapters(folder: SourceFolder, settings: dict[str, Any], language: dict[str, RawTensor] | Any) -> dict[str, Any]:
    """Return the updates by the name of the weight that each changes."""
    where = f"{folder.key}: {folder.path / 'adapter_config.json'}"
    for name, plain in _PLAIN.items():
        if settings.get(name) not in plain:
            raise RequestError(f"{where}: {name} is {settings[name]!r}, which importing does not know.")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise RequestError(f"{where}: r is {rank!r} and lora_alpha {alpha!r}; expected two numbers.")
    scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
    file = next((folder.path / n for n in ("adapter_model.safetensors", "adapter_model.bin") if folder.has(n)), None)
    if file is None:
        raise RequestError(f"{folder.key}: {folder.path}: has no adapter_model.safetensors or .bin. Fetch it again.")
    sides: dict[str, dict[str, RawTensor]] = {}
    for name, tensor in tensors_in_file(file, folder.key).items():
        found = _UPDATE.match(name)
        if found is None:
            raise RequestError(f"{folder.key}: {file}: {name!r} is no update of the language model's layers.")
        sides.setdefault(f"{found['layer']}.weight", {})[found["side"]] = tensor
    return {name: _adapter(name, pair, scale, rank, language, file) for name, pair in sides.items()}


def _adapter(name: str, pair: dict[str, RawTensor], scale: float, rank: int, language: Any, file: Any) -> Adapter:
    if set(pair) != {"A", "B"} or name not in language:
        raise RequestError(f"{file}: the update of {name} has no {'weight in the base' if len(pair) == 2 else 'pair'}.")
    out, inside = language[name].shape
    if pair["A"].shape != (rank, inside) or pair["B"].shape != (out, rank):
        raise RequestError(
            f"{file}: the update of {name} is {list(pair['B'].shape)} by {list(pair['A'].shape)}; the base's weight is "
            f"[{out}, {inside}] and r {rank}. Give the base that it was trained on (--base)."
        )
    return Adapter(pair["A"], pair["B"], scale)
