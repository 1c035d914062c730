"""What of a model a stage trains: which weights, at which rate, in which precision, on which device."""

from collections.abc import Iterable

import torch
from torch import nn

from olivine.distributed import Processes
from olivine.model.connectors.llava import trainable
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import ConnectorRecipe, Recipe, StageRecipe
from olivine.training import lora
from olivine.training.log import MODULE_NAMES


def choose_trainable(
    vlm: VisionLanguageModel, stage: StageRecipe, connector: ConnectorRecipe
) -> dict[str, nn.Parameter]:
    """Freeze everything but the stage's modules and return what trains, by name."""
    for parameter in vlm.model.parameters():
        parameter.requires_grad_(False)
    may_train = {id(parameter) for parameter in trainable(vlm.connector, connector)}
    selected = {}
    for module in stage.train:
        for name, parameter in vlm.part(module).items():
            if module in stage.adapted and not lora.of_adapters(name):
                continue
            if module != "connector" or id(parameter) in may_train:
                parameter.requires_grad_(True)
                selected[name] = parameter
    return selected


def peak_rates(stage: StageRecipe, vlm: VisionLanguageModel, weights: Iterable[str], own: Iterable[str]) -> list[float]:
    """Return the peak learning rate of each trained weight, by name, then of each of the objective's own.

    An objective's own parameters (the captions' encoder of a contrastive stage) train at the rate of the first module.
    """
    module_of = {name: module for module in stage.train for name in vlm.part(module)}
    return [stage.peak_lr(module_of[name]) for name in weights] + [stage.peak_lr(stage.train[0]) for _ in own]


def set_precision(vlm: VisionLanguageModel, stage: StageRecipe, recipe: Recipe) -> None:
    """Keep what trains in fp32, and what is frozen in bf16 if the recipe says bf16."""
    trained = [name for name in stage.train if name not in stage.adapted]
    frozen = torch.bfloat16 if recipe.optimizer.precision == "bf16" else torch.float32
    vlm.cast(frozen, [name for name in MODULE_NAMES if name not in trained])  # what trains is never rounded on the way
    vlm.cast(torch.float32, trained)


def move_to_device(vlm: VisionLanguageModel, processes: Processes) -> None:
    """Move the model to the process's device; sharding moves a language model itself, piece by piece."""
    if processes.several:
        vlm.tower.to(processes.device)
        vlm.connector.to(processes.device)
    else:
        vlm.model.to(processes.device)
