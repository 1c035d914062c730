"""From a recipe's vision section to a tower: its type and size, which of its tokens are used; then its weights.

`registry` lists the families; the connector decides what the language model gets of the features.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel

from olivine.data.images import ImageTransform
from olivine.errors import RequestError
from olivine.model.companion import verify_module_files
from olivine.model.configuration import model_config, understood
from olivine.model.hub import WEIGHTS, local_folder
from olivine.model.preprocessor import image_transform
from olivine.model.towers.family import TowerFamily
from olivine.model.towers.joined import JOINED, JoinedTower, JoinedTowerConfig
from olivine.model.towers.registry import tower_family
from olivine.model.weights import load_weights
from olivine.recipe import Source, VisionRecipe


@dataclass(frozen=True, slots=True)
class Features:
    """What leaves a tower for each image: `side` x `side` patches behind `extra` other tokens, each `width` wide."""

    side: int
    extra: int
    width: int

    @property
    def tokens(self) -> int:
        """The number of tokens per image that the connector gets."""
        return self.side * self.side + self.extra


@dataclass(frozen=True, slots=True)
class _Part:
    """One tower: where it comes from, its configuration there and at the requested size, and its image transform."""

    source: Source
    stored: Any
    config: Any
    family: TowerFamily
    transform: ImageTransform


@dataclass(frozen=True, slots=True)
class TowerPlan:
    """A vision section before any weight is loaded.

    Attributes:
        config: of the tower, as a LLaVA configuration holds it under `vision_config`.
        layer: which hidden states are features, as a LLaVA configuration has it under `vision_feature_layer`.
        strategy: "default" drops the first token, "full" none: `vision_feature_select_strategy`.
        features: what leaves the tower.
        positions: tokens inside the tower, including unused ones; summed over fused towers.
        transform: fits images to it.
    """

    config: Any
    layer: int | list[int]
    strategy: str
    features: Features
    positions: int
    transform: ImageTransform
    parts: tuple[_Part, ...]


def plan_tower(recipe: VisionRecipe) -> TowerPlan:
    """Read the configurations of a vision section and check that it is consistent; sources must be located.

    Raises:
        RequestError: an unsupported family; a layer, size, option or pair of towers that do not go together.
    """
    parts = tuple(_read_part(recipe, source) for source in recipe.sources)
    layers = [recipe.layer] if isinstance(recipe.layer, int) else list(recipe.layer)
    for part in parts:
        _check_layers(layers, part.config.num_hidden_layers)
    _check_registers(recipe, parts)
    transform, grids = parts[0].transform, [part.family.grid(part.config, part.transform.size) for part in parts]
    _check_fused(recipe, parts, grids)
    side = grids[0]
    width = len(layers) * sum(part.config.hidden_size for part in parts)
    positions = sum(side * side + part.family.prefix(part.config) for part in parts)
    registers = [part.family.registers(part.config) for part in parts]
    if len(parts) > 1 or (recipe.registers == "drop" and registers[0]):
        config = _joined_config(parts, layers, width, transform)
        return TowerPlan(config, -1, "full", Features(side, 0, width), positions, transform, parts)
    strategy = "default" if parts[0].family.class_tokens else "full"
    layer = recipe.layer if isinstance(recipe.layer, int) else layers
    features = Features(side, registers[0], width)
    return TowerPlan(parts[0].config, layer, strategy, features, positions, transform, parts)


def load_tower(plan: TowerPlan) -> Any:
    """Load the tower of a plan in fp32 on the CPU; with a configuration as its source it is initialised at random.

    Raises:
        RequestError: weights that cannot be found, fetched or used.
    """
    towers = [_load_module(part) for part in plan.parts]
    if plan.config.model_type != JOINED:
        return towers[0]
    with torch.device("meta"):
        joined = JoinedTower(plan.config)
    for number, tower in enumerate(towers):
        joined.towers[number] = tower
    return joined


def shown_features(vision_config: Any, strategy: str, layer: int | list[int], size: int) -> Features:
    """Return what leaves the tower of a LLaVA configuration for an image of `size` pixels.

    Raises:
        RequestError: its family is not supported, or its patches do not divide the size.
    """
    layers = 1 if isinstance(layer, int) else len(layer)
    if vision_config.model_type == JOINED:
        side, rest = divmod(size, vision_config.patch_size)
        if rest or size != vision_config.image_size:
            raise RequestError(f"this tower takes {vision_config.image_size} alone.")
        return Features(side, 0, vision_config.hidden_size)
    family = tower_family(vision_config.model_type, "vision_config")
    if family.position_table is not None and size != vision_config.image_size:
        raise RequestError(f"this {vision_config.model_type} takes {vision_config.image_size} alone.")
    extra = family.prefix(vision_config) - (strategy == "default")
    return Features(family.grid(vision_config, size), extra, layers * vision_config.hidden_size)


def _read_part(recipe: VisionRecipe, source: Source) -> _Part:
    key = "model.vision.from" if recipe.fused is None else "model.vision.fused"
    stored = model_config(source, key)
    stored = getattr(stored, "vision_config", stored)
    family = tower_family(stored.model_type, key)
    transform = image_transform(recipe, source, stored, family)
    config = stored
    if family.position_table is not None and transform.size != stored.image_size:
        config = copy.deepcopy(stored)
        config.image_size = transform.size
    return _Part(source, stored, config, family, transform)


def _load_module(part: _Part) -> Any:
    key = "model.vision.from"
    if isinstance(part.source, dict):
        return understood(lambda: AutoModel.from_config(part.config, trust_remote_code=False), key)
    naming = part.family.naming(model_config(part.source, key))
    folder = local_folder(part.source, key, WEIGHTS)
    verify_module_files(folder, WEIGHTS)
    model_class = class_of(lambda config: AutoModel.from_config(config, trust_remote_code=False), part.stored, key)
    tower = load_weights(model_class, folder, part.stored, naming, key=key, dtype=torch.float32)
    return tower if part.config is part.stored else _resized(tower, part)


def class_of(make: Callable[[Any], Any], config: Any, key: str) -> type[Any]:
    """Return the model class of a configuration, without allocating memory."""

    def on_meta() -> Any:
        with torch.device("meta"):
            return make(config)

    return type(understood(on_meta, key))


def _resized(tower: Any, part: _Part) -> Any:
    """Return the same tower for images of another size: position embeddings resampled, other weights unchanged."""
    with torch.random.fork_rng(devices=[]):  # its random weights are overwritten; the caller's random state stays
        resized = type(tower)(part.config)
    resized.load_state_dict(part.family.resized_state(tower.state_dict(), part.config, part.transform.size))
    return resized


def _joined_config(
    parts: tuple[_Part, ...], layers: list[int], width: int, transform: ImageTransform
) -> JoinedTowerConfig:
    return JoinedTowerConfig(
        parts=[
            {
                "config": part.config.to_dict(),
                "prefix": part.family.prefix(part.config),
                "layers": layers,
                "mean": list(part.transform.mean),
                "std": list(part.transform.std),
            }
            for part in parts
        ],
        pixel_mean=list(transform.mean),
        pixel_std=list(transform.std),
        hidden_size=width,
        image_size=transform.size,
        patch_size=parts[0].config.patch_size,
        num_hidden_layers=max(part.config.num_hidden_layers for part in parts),
    )


def _check_layers(layers: list[int], depth: int) -> None:
    for layer in layers:
        if not -(depth + 1) <= layer <= depth:
            raise RequestError(f"model.vision.layer: {layer}; this tower has hidden states {-(depth + 1)} to {depth}.")


def _check_registers(recipe: VisionRecipe, parts: tuple[_Part, ...]) -> None:
    if recipe.registers is not None and not any(part.family.registers(part.config) for part in parts):
        types = ", ".join(part.config.model_type for part in parts)
        raise RequestError(f"model.vision.registers: {recipe.registers!r}, but {types} has none. Remove the key.")


def _check_fused(recipe: VisionRecipe, parts: tuple[_Part, ...], grids: list[int]) -> None:
    """Refuse towers that do not take the same image size, or divide it into different grids."""
    key = "model.vision.fused"
    types = [part.config.model_type for part in parts]
    sizes = [part.transform.size for part in parts]
    if len(set(sizes)) > 1:
        each = ", ".join(f"{name} {size}" for name, size in zip(types, sizes, strict=True))
        raise RequestError(f"{key}: the towers take images of different sizes ({each}). Give model.vision.image_size.")
    if len(set(grids)) > 1:
        each = ", ".join(f"{name} {side}x{side}" for name, side in zip(types, grids, strict=True))
        raise RequestError(
            f"{key}: at {sizes[0]} pixels the towers' grids of patches differ ({each}). Give towers of one patch size."
        )
    filters = [part.transform.resample for part in parts]
    if recipe.resample is None and len(set(filters)) > 1:
        each = ", ".join(f"{name} {one}" for name, one in zip(types, filters, strict=True))
        raise RequestError(f"{key}: the towers resize with different filters ({each}). Give model.vision.resample.")
