"""Low-rank updates in place of the language model's own weights, through peft; merged into them when a stage ends.

Which weights a stage trains otherwise is decided in `stage`.
"""

from typing import Any

import torch
from torch import nn

from olivine.errors import RequestError
from olivine.recipe import LoraRecipe

_OF_ADAPTERS = ".lora_"


def insert(language: nn.Module, recipe: LoraRecipe) -> None:
    """Put an adapter beside each of the language model's linear layers that the recipe names.

    The layers' own weights keep their dtype; the adapters are fp32. What the model computes is at first unchanged,
    since one of an adapter's two matrices begins at zero.

    Args:
        language: the trunk, changed in place.
        recipe: rank, scale and which layers.

    Raises:
        RequestError: peft is not installed, or a target is the name of no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RequestError("stages: lora needs peft. Install it: pip install 'olivine[lora]'.") from None
    linear = {name.rpartition(".")[2] for name, module in language.named_modules() if isinstance(module, nn.Linear)}
    unknown = [name for name in recipe.targets if name not in linear]
    if unknown:
        raise RequestError(
            f"stages: lora.targets {', '.join(unknown)}: no such linear layer. Valid: {', '.join(sorted(linear))}."
        )
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.targets), lora_dropout=0.0)
    inject_adapter_in_model(config, language)
    for name, parameter in language.named_parameters():
        if _OF_ADAPTERS in name:
            parameter.data = parameter.data.float()


def of_adapters(name: str) -> bool:
    """Whether a parameter is an adapter's, by its name."""
    return _OF_ADAPTERS in name


@torch.no_grad()
def merge(language: nn.Module) -> None:
    """Add every adapter's product to its layer's weight and take the adapter out again; none there is no error.

    The sum is taken in fp32, and rounded once where the weight is bf16.
    """
    for name, module in list(language.named_modules()):
        if not hasattr(module, "lora_A"):
            continue
        layer: Any = module
        linear = layer.get_base_layer()
        weight = linear.weight
        weight.data = (weight.float() + layer.get_delta_weight("default").float()).to(weight.dtype)
        parent, _, last = name.rpartition(".")
        setattr(language.get_submodule(parent), last, linear)
    if hasattr(language, "peft_config"):
        del language.peft_config
