"""Olivine trains, ablates, measures and explains compact vision-language models in the LLaVA recipe.

    import olivine

    model = olivine.load("runs/easy-vqa")
    model.answer("photo.jpg", "What colour is the cup?")

Nothing heavy is imported before the first call; the functions themselves are in `olivine.api`. transformers' Auto
classes know Olivine's registered ones from here on.
"""

from typing import TYPE_CHECKING, Any

from olivine.auto_classes import register

if TYPE_CHECKING:
    from olivine.api import Model, ablate, evaluate, load, plan, score, train

    __version__: str

register()

__all__ = ["Model", "__version__", "ablate", "evaluate", "load", "plan", "score", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("olivine")
    if name in __all__:
        from olivine import api

        return getattr(api, name)
    raise AttributeError(f"module 'olivine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
