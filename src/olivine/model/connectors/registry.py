"""Which kinds of connectors there are: the package's own, and those of installed packages.

The interface of a kind is in `base`; the recipe's schema for the package's own is `recipe.CONNECTORS`.
"""

from olivine.errors import RequestError, unknown_name
from olivine.model.connectors.base import Connector
from olivine.model.connectors.mlp import Mlp
from olivine.model.connectors.pixel_shuffle import PixelShuffle
from olivine.model.connectors.pool import Pool
from olivine.model.connectors.resampler import Resampler
from olivine.recipe import CONNECTOR_GROUP
from olivine.registry import load, offered

_OWN: dict[str, type[Connector]] = {kind.kind: kind for kind in (Mlp, PixelShuffle, Pool, Resampler)}


def connector_kinds() -> tuple[str, ...]:
    """Return every kind that is a class, the package's own first; `linear` is an MLP of depth 1."""
    return (*_OWN, *(name for name in offered(CONNECTOR_GROUP) if name not in _OWN))


def connector_class(kind: str) -> type[Connector]:
    """Return the class of a kind.

    Raises:
        RequestError: there is none; the message suggests the nearest.
    """
    if kind in _OWN:
        return _OWN[kind]
    if kind in offered(CONNECTOR_GROUP):
        found: type[Connector] = load(CONNECTOR_GROUP, kind)
        return found
    raise RequestError(f"model.connector.kind: {unknown_name(kind, connector_kinds())}")
