"""Connectors: an MLP of any depth from tower width to language-model width.

Depths 1 and 2 are plain transformers LLaVA; deeper ones need this module imported to be loaded.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration
from transformers.activations import ACT2FN

from olivine.errors import RequestError
from olivine.recipe import ConnectorRecipe


class DeepConnectorConfig(LlavaConfig):  # type: ignore[misc]  # transformers is untyped here
    """A LLaVA configuration with a connector of more than two layers."""

    model_type = "olivine_llava"
    projector_depth: int = 3


class DeepConnector(nn.Module):
    """`depth` linear layers with activations between: `[..., tower width]` to `[..., hidden]`."""

    def __init__(self, tower_width: int, hidden: int, depth: int, activation: str) -> None:
        super().__init__()
        widths = [tower_width] + [hidden] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = ACT2FN[activation]

    def forward(self, features: Tensor) -> Tensor:
        """Project features."""
        for layer in self.layers[:-1]:
            features = self.activation(layer(features))
        projected: Tensor = self.layers[-1](features)
        return projected


class DeepConnectorLlava(LlavaForConditionalGeneration):  # type: ignore[misc]
    """`LlavaForConditionalGeneration` with another connector in the connector's place; `forward` is untouched."""

    config_class = DeepConnectorConfig

    def __init__(self, config: DeepConnectorConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = DeepConnector(
            config.vision_config.hidden_size,
            config.text_config.hidden_size,
            config.projector_depth,
            config.projector_hidden_act,
        )


AutoConfig.register("olivine_llava", DeepConnectorConfig)
AutoModelForImageTextToText.register(DeepConnectorConfig, DeepConnectorLlava)


def llava_class(recipe: ConnectorRecipe) -> tuple[type[Any], dict[str, Any]]:
    """The model class for a connector, and what to add to its configuration.

    One layer is two with no activation between, of which the second is the identity and stays so: plain
    transformers computes exactly the single layer.

    Raises:
        RequestError: transformers knows no such activation.
    """
    if recipe.activation not in ACT2FN:
        raise RequestError(f"model.connector.activation: transformers knows no {recipe.activation!r}; try gelu.")
    if recipe.depth == 1:
        return LlavaForConditionalGeneration, {"projector_hidden_act": "linear"}
    if recipe.depth == 2:
        return LlavaForConditionalGeneration, {"projector_hidden_act": recipe.activation}
    return DeepConnectorLlava, {"projector_hidden_act": recipe.activation, "projector_depth": recipe.depth}


def initialise(connector: nn.Module, depth: int, generator: torch.Generator) -> None:
    """Start a connector at random, as PyTorch starts linear layers (what LLaVA's projector does)."""
    layers = [module for module in connector.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        bound = layer.in_features**-0.5
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
    if depth == 1:
        with torch.no_grad():
            nn.init.eye_(layers[-1].weight)
            layers[-1].bias.zero_()


def trainable(connector: nn.Module, depth: int) -> list[nn.Parameter]:
    """The connector's parameters that may train: all, but for the identity layer of depth 1."""
    if depth != 1:
        return list(connector.parameters())
    first: nn.Module = connector.linear_1  # type: ignore[assignment]
    return list(first.parameters())
