"""Which families of towers there are: the package's own, and those of installed packages.

The interface of a family is in `family`.
"""

from olivine.errors import RequestError, unknown_name
from olivine.model.towers.clip import Clip
from olivine.model.towers.dinov2 import Dinov2
from olivine.model.towers.dinov2_registers import Dinov2WithRegisters
from olivine.model.towers.dinov3 import Dinov3
from olivine.model.towers.family import TowerFamily
from olivine.model.towers.siglip import Siglip
from olivine.registry import load, offered

#: Entry points of this group are named by their family's model type.
TOWERS = "olivine.towers"
_OWN = {family.model_type: family for family in (Clip, Siglip, Dinov2, Dinov2WithRegisters, Dinov3)}
#: Model types that are known but unsupported, with the reason.
_REFUSED = {
    "siglip2": "SigLIP2-NaFlex takes patches and their shapes in place of a square image",
    "siglip2_vision_model": "SigLIP2-NaFlex takes patches and their shapes in place of a square image",
    "dinov3_convnext": "DINOv3's convolutional network has no sequence of patches",
}


def tower_types() -> tuple[str, ...]:
    """Return every model type that is supported with the installed transformers, the package's own first."""
    own = (name for name, family in _OWN.items() if family().unusable() is None)
    return (*own, *(name for name in offered(TOWERS) if name not in _OWN))


def tower_family(model_type: str, key: str = "model.vision.from") -> TowerFamily:
    """Return the family of a tower's configuration.

    Raises:
        RequestError: it is not supported; the message lists those that are.
    """
    if model_type in _OWN or model_type in offered(TOWERS):
        family: TowerFamily = (_OWN[model_type] if model_type in _OWN else load(TOWERS, model_type))()
        why_not = family.unusable()
        if why_not is None:
            return family
    else:
        why_not = _REFUSED.get(model_type)
    if why_not is not None:
        raise RequestError(f"{key}: {model_type!r} is not supported: {why_not}. Supported: {', '.join(tower_types())}.")
    raise RequestError(f"{key}: unsupported vision tower {model_type!r}. {unknown_name(model_type, tower_types())}")
