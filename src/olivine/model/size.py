"""How large a recipe's model is, from configurations alone: no weight is loaded or fetched.

What a size costs in time and memory is not here.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM

from olivine.model.build import model_config
from olivine.recipe import ModelRecipe


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters of each part, and what decides activations.

    `embedding` counts the token table once (a tied head is the same table); it is part of `language`.
    """

    vision: int
    connector: int
    language: int
    embedding: int
    hidden: int
    layers: int
    image_tokens: int


def model_size(recipe: ModelRecipe) -> ModelSize:
    """Count a model's parameters on the meta device.

    Raises:
        RequestError: a configuration that cannot be found or fetched, with its key in the recipe.
    """
    vision = model_config(recipe.vision.from_, "model.vision.from")
    vision = getattr(vision, "vision_config", vision)
    language = model_config(recipe.language.from_, "model.language.from")
    with torch.device("meta"):
        tower = AutoModel.from_config(vision)
        trunk = AutoModelForCausalLM.from_config(language)
    side = recipe.vision.image_size or (vision.image_size if vision.model_type == "clip_vision_model" else 224)
    widths = [vision.hidden_size, *[language.hidden_size] * recipe.connector.depth]
    return ModelSize(
        vision=_count(tower),
        connector=sum(a * b + b for a, b in pairwise(widths)),
        language=_count(trunk),
        embedding=trunk.get_input_embeddings().weight.numel(),
        hidden=language.hidden_size,
        layers=language.num_hidden_layers,
        image_tokens=(side // vision.patch_size) ** 2,
    )


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
