"""The typed recipe: what to build, what to read, what to train in which order, what to measure.

Reading, overriding and checking only; nothing here opens a model or an image.
"""

from olivine.recipe.choices import (
    ImageFit,
    LossWeights,
    ModuleName,
    OnError,
    Registers,
    Resample,
    Source,
    StageTemplateName,
    TemplateName,
)
from olivine.recipe.connector import CONNECTOR_GROUP, CONNECTORS, ConnectorRecipe
from olivine.recipe.data import AugmentRecipe, DataRecipe
from olivine.recipe.experiment import OptimizerRecipe, Recipe, ShardingRecipe
from olivine.recipe.model import LanguageRecipe, ModelRecipe, TokenizerRecipe, VisionRecipe
from olivine.recipe.reading import from_values, load, read_values, without_overruled
from olivine.recipe.run_files import CHECKPOINT, PROVENANCE, RECIPE, RESULT, STEP
from olivine.recipe.stage import LoraRecipe, StageRecipe, VisionLoraRecipe
from olivine.recipe.values import change

__all__ = [
    "CHECKPOINT",
    "CONNECTORS",
    "CONNECTOR_GROUP",
    "PROVENANCE",
    "RECIPE",
    "RESULT",
    "STEP",
    "AugmentRecipe",
    "ConnectorRecipe",
    "DataRecipe",
    "ImageFit",
    "LanguageRecipe",
    "LoraRecipe",
    "LossWeights",
    "ModelRecipe",
    "ModuleName",
    "OnError",
    "OptimizerRecipe",
    "Recipe",
    "Registers",
    "Resample",
    "ShardingRecipe",
    "Source",
    "StageRecipe",
    "StageTemplateName",
    "TemplateName",
    "TokenizerRecipe",
    "VisionLoraRecipe",
    "VisionRecipe",
    "change",
    "from_values",
    "load",
    "read_values",
    "without_overruled",
]
