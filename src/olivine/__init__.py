"""Olivine trains, ablates, measures and explains compact vision-language models in the LLaVA recipe.

The rooms are imported by name (`olivine.recipe`, `olivine.train`, ...); nothing heavy is imported here.
"""

from importlib.metadata import version

__version__ = version("olivine")
__all__ = ["__version__"]
