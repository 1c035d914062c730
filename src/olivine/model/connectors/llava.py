"""LLaVA with any connector: plain transformers if its projector can represent it, otherwise a registered class.

Loading a folder of the registered class needs `import olivine` first. The kinds of connectors are in `registry`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration
from transformers.activations import ACT2FN

from olivine.errors import RequestError
from olivine.model.connectors.base import Connector, Shape, start_linear
from olivine.model.connectors.registry import connector_class
from olivine.recipe import ConnectorRecipe

#: The model type of a LLaVA with a connector that plain transformers lacks.
OWN_TYPE = "olivine_llava"


class ConnectorLlavaConfig(LlavaConfig):  # type: ignore[misc]  # transformers is untyped here
    """A LLaVA configuration with another connector.

    Attributes:
        projector_depth: of an MLP, if `connector` is None.
        connector: its `kind`, its options, and the `side` and `extra` tokens of its input.
    """

    model_type = OWN_TYPE
    projector_depth: int = 3
    connector: dict[str, Any] | None = None


class ConnectorLlava(LlavaForConditionalGeneration):  # type: ignore[misc]
    """`LlavaForConditionalGeneration` with another connector; `forward` is untouched."""

    config_class = ConnectorLlavaConfig

    def __init__(self, config: ConnectorLlavaConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = _connector_of(config)


def _connector_of(config: ConnectorLlavaConfig) -> Connector:
    layer = config.vision_feature_layer
    width = config.vision_config.hidden_size * (1 if isinstance(layer, int) else len(layer))
    described = dict(config.connector or _deep_mlp(config))
    shape = Shape(described.pop("side"), described.pop("extra"), width, config.text_config.hidden_size)
    return connector_class(described.pop("kind"))(shape, described)


def _deep_mlp(config: ConnectorLlavaConfig) -> dict[str, Any]:
    options = {"depth": config.projector_depth, "activation": config.projector_hidden_act}
    return {"kind": "mlp", "side": 0, "extra": 0, **options}


AutoConfig.register(OWN_TYPE, ConnectorLlavaConfig)
AutoModelForImageTextToText.register(ConnectorLlavaConfig, ConnectorLlava)


def llava_class(recipe: ConnectorRecipe, shape: Shape) -> tuple[type[Any], dict[str, Any]]:
    """Return the model class for a connector, and what to add to its configuration, `image_seq_length` included.

    A single layer is saved as two without activation, of which the second is the identity and stays so: plain
    transformers then computes exactly the single layer.

    Raises:
        RequestError: transformers has no such activation; the connector does not support the tower's features.
    """
    if recipe.activation is not None and recipe.activation not in ACT2FN:
        raise RequestError(f"model.connector.activation: transformers knows no {recipe.activation!r}; try gelu.")
    if is_single_layer(recipe):
        return LlavaForConditionalGeneration, {"projector_hidden_act": "linear", "image_seq_length": shape.tokens}
    if recipe.kind == "mlp":
        common = {"projector_hidden_act": recipe.activation, "image_seq_length": shape.tokens}
        if recipe.depth == 2:
            return LlavaForConditionalGeneration, common
        return ConnectorLlava, {**common, "projector_depth": recipe.depth}
    options = recipe.given
    tokens = connector_class(recipe.kind).image_tokens(shape, options)
    described = {"kind": recipe.kind, "side": shape.side, "extra": shape.extra, **options}
    return ConnectorLlava, {"connector": described, "image_seq_length": tokens}


def image_tokens(config: Any, side: int, extra: int, width: int) -> int:
    """Return how many image tokens a LLaVA configuration's connector makes of its tower's features.

    Raises:
        RequestError: it does not support them.
    """
    described: Mapping[str, Any] | None = getattr(config, "connector", None)
    shape = Shape(side, extra, width, config.text_config.hidden_size)
    if described is None:
        return shape.tokens
    if (described["side"], described["extra"]) != (side, extra):
        raise RequestError(
            f"the connector was made for {described['side']}x{described['side']} patches and {described['extra']} "
            f"other tokens, but the tower gives {side}x{side} and {extra}"
        )
    options = {key: value for key, value in described.items() if key not in ("kind", "side", "extra")}
    return connector_class(described["kind"]).image_tokens(shape, options)


def is_single_layer(recipe: ConnectorRecipe) -> bool:
    """Return whether a connector is one linear layer, which transformers' projector represents with an identity."""
    return recipe.kind == "linear" or (recipe.kind == "mlp" and recipe.depth == 1)


def connector_recipe(config: Any, connector: nn.Module) -> ConnectorRecipe:
    """Return the recipe section that describes the connector of a LLaVA model."""
    described = dict(getattr(config, "connector", None) or {})
    if described:
        own = {key: value for key, value in described.items() if key not in ("side", "extra")}
        known = {key: own.pop(key) for key in ConnectorRecipe.model_fields if key in own}
        return ConnectorRecipe.model_validate({**known, **({"options": own} if own else {})})
    if isinstance(config, ConnectorLlavaConfig):
        values = {key: value for key, value in _deep_mlp(config).items() if key not in ("side", "extra")}
        return ConnectorRecipe.model_validate(values)
    if config.projector_hidden_act == "linear" and _is_identity(getattr(connector, "linear_2", None)):
        return ConnectorRecipe(kind="linear")
    return ConnectorRecipe(kind="mlp", depth=2, activation=config.projector_hidden_act)


def _is_identity(layer: Any) -> bool:
    if layer is None:
        return False
    weight, square = layer.weight.detach(), layer.in_features == layer.out_features
    same = square and torch.equal(weight, torch.eye(layer.in_features, dtype=weight.dtype, device=weight.device))
    return bool(same and (layer.bias is None or not layer.bias.detach().any()))


def initialise(connector: nn.Module, recipe: ConnectorRecipe, generator: torch.Generator) -> None:
    """Initialise a connector at random, as PyTorch initialises linear layers (and LLaVA its projector)."""
    if isinstance(connector, Connector):
        connector.start(generator)
        return
    layers = [module for module in connector.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        start_linear(layer, generator)
    if is_single_layer(recipe):
        with torch.no_grad():
            nn.init.eye_(layers[-1].weight)
            layers[-1].bias.zero_()


def trainable(connector: nn.Module, recipe: ConnectorRecipe) -> list[nn.Parameter]:
    """Return the connector's parameters that may train: all except the identity layer beside a single one."""
    if not is_single_layer(recipe):
        return list(connector.parameters())
    first: nn.Module = connector.linear_1  # type: ignore[assignment]
    return list(first.parameters())
