"""The size of a recipe's model, from configurations alone: no weights are loaded or fetched.

Its cost in time and memory is in `cost`.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

from torch import nn

from olivine.errors import RequestError
from olivine.model.build import skeleton
from olivine.model.towers.linear import linear_layers
from olivine.recipe import ModelRecipe


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters by module and role, and the shapes that decide activations.

    Attributes:
        blocks: of the language model without its token table.
        tower_tokens: of an image inside the tower, including those that the language model does not see.
        features, feature_width: the tower's output per image: number of tokens, and their width.
        patches: image tokens of an image, which the language model sees.
        linear: of the backbone's linear layers by their last name, inputs and outputs, summed over all blocks.
        tower_linear: the same of the tower's blocks, by the names that language models give such layers; empty if
            the tower's family does not name them.
    """

    blocks: int
    layers: int
    hidden: int
    heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    tower: int
    tower_layers: int
    tower_width: int
    tower_tokens: int
    features: int
    feature_width: int
    patches: int
    connector: int
    linear: Mapping[str, int]
    tower_linear: Mapping[str, int]
    config: object = field(repr=False)

    @property
    def table(self) -> int:
        """The parameters of the token table."""
        return self.vocabulary * self.hidden

    @property
    def language(self) -> int:
        """The parameters of the language model; its table counts once if the head is tied to it."""
        return self.blocks + self.table * (1 if self.tied else 2)


def model_size(recipe: ModelRecipe) -> ModelSize:
    """Return the size of the model that a recipe describes.

    Raises:
        RequestError: a configuration that cannot be found or used, with its key in the recipe.
    """
    return _size(recipe.model_dump_json(by_alias=True))


@lru_cache(maxsize=64)
def _size(recipe: str) -> ModelSize:
    model, plan = skeleton(ModelRecipe.model_validate_json(recipe))
    text, vision = model.config.text_config, model.config.vision_config

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    backbone = model.model.language_model
    linear: Counter[str] = Counter()
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            linear[name.rpartition(".")[2]] += module.in_features + module.out_features
    tower_linear: Counter[str] = Counter()
    with suppress(RequestError):  # refused where it is requested: a stage's `vision_lora`
        for name, common in linear_layers(model.model.vision_tower, "model.vision").items():
            module = model.model.vision_tower.get_submodule(name)
            tower_linear[common] += module.in_features + module.out_features
    return ModelSize(
        blocks=size(backbone) - size(backbone.embed_tokens),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        tied=model.lm_head.weight is backbone.embed_tokens.weight,
        tower=size(model.model.vision_tower),
        tower_layers=vision.num_hidden_layers,
        tower_width=vision.hidden_size,
        tower_tokens=plan.positions,
        features=plan.features.tokens,
        feature_width=plan.features.width,
        patches=model.config.image_seq_length,
        connector=size(model.model.multi_modal_projector),
        linear=linear,
        tower_linear=tower_linear,
        config=text,
    )
