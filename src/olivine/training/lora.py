"""Low-rank updates in place of the language model's own weights, through peft; merged into them when a stage ends.

Which weights a stage trains otherwise is decided in `stage`.
"""

from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from olivine.errors import RequestError
from olivine.model.languages.registry import family_of
from olivine.recipe import LoraRecipe

_OF_ADAPTERS = ".lora_"


def insert(language: nn.Module, recipe: LoraRecipe, device: torch.device = torch.device("cpu")) -> None:  # noqa: B008
    """Put an adapter beside each of the language model's linear layers that the recipe names.

    The layers' own weights keep their dtype, or are quantized to four bits; the adapters are fp32. Apart from the
    quantization error, the model's output is unchanged at first, since one of an adapter's two matrices starts at zero.

    Args:
        language: the language model's backbone, changed in place.
        recipe: rank, scale and target layers.
        device: where layers go as they are quantized, one by one, so that the unquantized model need not fit there.

    Raises:
        RequestError: peft (or bitsandbytes, to quantize) is not installed, or a target names no linear layer.
    """
    check(language, recipe, "stages: lora")
    from peft import LoraConfig, inject_adapter_in_model

    if recipe.quantize:
        _quantize(language, device)
    targets = list(_targets(language, recipe, _linear_layers(language)))
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets, lora_dropout=0.0)
    inject_adapter_in_model(config, language)
    for name, parameter in language.named_parameters():
        if _OF_ADAPTERS in name:
            parameter.data = parameter.data.float()


def check(language: nn.Module, recipe: LoraRecipe, where: str, *, several: bool = False) -> None:
    """Refuse what cannot be carried out, before anything is trained.

    Args:
        language: the language model's backbone, before any adapter is inserted.
        recipe: rank, scale and target layers.
        where: the start of the message, such as `stages.align.lora`.
        several: whether the run has more than one process.

    Raises:
        RequestError: peft (or bitsandbytes, to quantize) is not installed, a target names no linear layer, or
            there are several processes.
    """
    if several:
        raise RequestError(f"{where}: one process only; under torchrun the model itself is sharded.")
    if find_spec("peft") is None:
        raise RequestError(f"{where} needs peft. Install it: pip install 'olivine[lora]'.")
    if recipe.quantize and find_spec("bitsandbytes") is None:
        raise RequestError(f"{where}.quantize needs bitsandbytes. Install it: pip install 'olivine[lora]'.")
    linear = _linear_layers(language)
    unknown = [name for name in _targets(language, recipe, linear) if name not in linear]
    if unknown:
        raise RequestError(
            f"{where}.targets {', '.join(unknown)}: no such linear layer. Valid: {', '.join(sorted(linear))}."
        )


def _linear_layers(language: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, module in language.named_modules() if isinstance(module, nn.Linear)}


def _targets(language: Any, recipe: LoraRecipe, present: Collection[str]) -> tuple[str, ...]:
    """Return the recipe's targets by the names of this model's family, which may fuse several into one layer."""
    return family_of(language.config).linear_layers(recipe.targets, present)


def of_adapters(name: str) -> bool:
    """Return whether a parameter belongs to an adapter, by its name."""
    return _OF_ADAPTERS in name


@torch.no_grad()
def merge(module: nn.Module) -> None:
    """Add every adapter's product to its layer's weight and remove the adapter; having no adapters is no error.

    The sum is taken in fp32, and rounded once where the weight is bf16. Quantized weights keep the rounded values that
    the adapters were trained with, so the merged model computes what was trained; it ends up on the CPU, where it fits.
    """
    for name in [name for name, inner in module.named_modules() if hasattr(inner, "lora_A")]:
        layer: Any = module.get_submodule(name)
        merge_layer = _merged_from_four_bits if _is_quantized(layer.get_base_layer()) else _merged
        _replace(module, name, merge_layer(layer))
    for name in [name for name, inner in module.named_modules() if _is_quantized(inner)]:
        _replace(module, name, _restored(module.get_submodule(name)))
    if hasattr(module, "peft_config"):
        del module.peft_config


def _merged(layer: Any) -> nn.Linear:
    """Return the plain layer below an adapter, with peft's own merge done in fp32."""
    linear: nn.Linear = layer.get_base_layer()
    dtype = linear.weight.dtype
    linear.weight.data = linear.weight.data.float()
    layer.merge(safe_merge=True)
    linear.weight.data = linear.weight.data.to(dtype)
    return linear


def _merged_from_four_bits(layer: Any) -> nn.Linear:
    """Do as `_merged` for a quantized layer, where peft's merge would round the sum to four bits again."""
    linear = _restored(layer.get_base_layer())
    change = layer.get_delta_weight("default").float().to(linear.weight.device)
    linear.weight.data = (linear.weight.float() + change).to(linear.weight.dtype)
    return linear


def _quantize(language: nn.Module, device: torch.device) -> None:
    """Replace the backbone's linear layers with bitsandbytes' four-bit ones, using double quantization."""
    try:
        from bitsandbytes.nn.modules import Linear4bit, Params4bit
    except ImportError:
        raise RequestError(
            "stages: lora.quantize needs bitsandbytes. Install it: pip install 'olivine[qlora]'."
        ) from None
    # By name: a list of modules would hold every weight until the last is done.
    for name in [name for name, module in language.named_modules() if isinstance(module, nn.Linear)]:
        module = language.get_submodule(name)
        assert isinstance(module, nn.Linear), "it was a moment ago"
        weight = module.weight
        # Made without memory: its weight is set below.
        with torch.device("meta"):
            made = Linear4bit(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=weight.dtype,
                quant_type="nf4",
            )
        made.weight = Params4bit(weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
        if module.bias is not None:
            made.bias = module.bias
        # Held-out samples would otherwise pack it for faster answering on CPUs, in widths that few small models have.
        made.support_avx512bf16_for_cpu = False
        # Moving it to a device is what quantizes it.
        _replace(language, name, made.to(device))


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit"


def _restored(module: Any) -> nn.Linear:
    """Return a four-bit linear layer as a plain one with the same rounded values; a plain one unchanged."""
    if not _is_quantized(module):
        plain: nn.Linear = module
        return plain
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(module.weight.data, module.weight.quant_state).to(module.compute_dtype)
    with torch.device("meta"):
        linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    linear.weight = nn.Parameter(weight.cpu(), requires_grad=False)
    if module.bias is not None:
        linear.bias = nn.Parameter(module.bias.data.cpu(), requires_grad=False)
    return linear


def _replace(language: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(language.get_submodule(parent), last, module)
