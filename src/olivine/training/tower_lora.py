"""Low-rank updates in place of a vision tower's own weights, through peft; `lora.merge` adds them to the weights.

Those of the language model are in `lora`.
"""

from importlib.util import find_spec

from torch import nn

from olivine.errors import RequestError
from olivine.model.towers.linear import linear_layers
from olivine.recipe import VisionLoraRecipe
from olivine.training.lora import of_adapters


def check(tower: nn.Module, recipe: VisionLoraRecipe, where: str) -> list[str]:
    """Return the full names of the layers that are to be updated, in the tower's order.

    Args:
        tower: as it is before any adapter.
        recipe: rank, scale and which layers.
        where: begins the message: `stages.align.vision_lora`.

    Raises:
        RequestError: peft is not installed, the family does not say how its layers are called, or a target is not
            among them.
    """
    if find_spec("peft") is None:
        raise RequestError(f"{where} needs peft. Install it: pip install 'olivine[lora]'.")
    layers = linear_layers(tower, where)
    known = sorted(set(layers.values()))
    unknown = [target for target in recipe.targets or () if target not in known]
    if unknown:
        raise RequestError(
            f"{where}.targets {', '.join(unknown)}: the tower has no such linear layer. Valid: {', '.join(known)}."
        )
    return [name for name, common in layers.items() if recipe.targets is None or common in recipe.targets]


def insert(tower: nn.Module, recipe: VisionLoraRecipe, where: str) -> None:
    """Put an fp32 adapter beside each selected linear layer; the features are unchanged at first.

    Arguments and errors as in `check`.
    """
    layers = check(tower, recipe, where)
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=layers, lora_dropout=0.0)
    inject_adapter_in_model(config, tower)
    for name, parameter in tower.named_parameters():
        if of_adapters(name):
            parameter.data = parameter.data.float()
