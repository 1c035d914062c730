"""One tiny random specimen of each registered tower and connector, for tests that go over a whole registry.

The tests say what must be true of each.
"""

from typing import Any

from olivine.model.connectors.registry import connector_class, connector_kinds
from olivine.model.towers.registry import tower_family, tower_types
from olivine.recipe import CONNECTORS, ModelRecipe
from olivine.testing import tiny_model_recipe

#: Pixels; with patches of 8, two along a side.
SIZE = 16


def tower_specimens() -> dict[str, dict[str, Any]]:
    """Return vision sections of a recipe by name: each family, and each option of one.

    Those with registers come twice, kept and dropped; then features of two layers, and two towers fused.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in tower_types():
        family = tower_family(name)
        found[name] = {"from": family.tiny, "image_size": SIZE}
        if "num_register_tokens" in family.tiny:
            found[f"{name}, registers dropped"] = {**found[name], "registers": "drop"}
    found["two layers"] = {**found["clip_vision_model"], "layer": [-2, -1]}
    dinov2, siglip = (tower_family(name).tiny for name in ("dinov2_with_registers", "siglip_vision_model"))
    found["fused"] = {"fused": [dinov2, siglip], "image_size": SIZE}
    found["fused, two layers"] = {**found["fused"], "layer": [-2, -1]}
    return found


def connector_specimens() -> dict[str, dict[str, Any]]:
    """Return connector sections of a recipe by name: each kind, and an MLP of each layout that it is saved in."""
    found = {name: _section(name) for name in connector_kinds()}
    return {**found, "linear": {"kind": "linear"}, "mlp of two": {"kind": "mlp", "depth": 2}}


def _section(kind: str) -> dict[str, Any]:
    """Return a connector kind's section of a recipe; another package's options are under `options`."""
    tiny = connector_class(kind).tiny
    return {"kind": kind, **tiny} if kind in CONNECTORS else {"kind": kind, "options": tiny}


def specimen_recipe(
    vision: dict[str, Any] | None = None, connector: dict[str, Any] | None = None, **tiny: Any
) -> ModelRecipe:
    """Return a tiny model section with these modules, not the default ones; `tiny` as in `tiny_model_recipe`."""
    values = tiny_model_recipe(**tiny).model_dump(by_alias=True)
    return ModelRecipe.model_validate(
        {**values, "vision": vision or values["vision"], "connector": connector or values["connector"]}
    )
