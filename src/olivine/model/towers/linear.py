"""The linear layers inside a tower's blocks, under the names that language models give theirs.

Low-rank updates of them are in `training/tower_lora`.
"""

import re
from typing import Any

from torch import nn

from olivine.errors import RequestError
from olivine.model.towers.joined import JoinedTower
from olivine.model.towers.registry import tower_family

_IN_BLOCK = re.compile(r"(^|\.)layers?\.\d+\.")


def linear_layers(tower: Any, where: str) -> dict[str, str]:
    """Return the linear layers of a tower's blocks: full name in the tower -> common name (`q_proj`, `down_proj`).

    Layers outside of blocks (SigLIP's pooling head, which no image feature passes) are not among them.

    Args:
        tower: of a registered family, or several joined.
        where: the start of the message, such as `stages.align.vision_lora`.

    Raises:
        RequestError: the family does not name its linear layers.
    """
    if isinstance(tower, JoinedTower):
        return {
            f"towers.{number}.{name}": common
            for number, inner in enumerate(tower.towers)
            for name, common in linear_layers(inner, where).items()
        }
    family = tower_family(tower.config.model_type)
    common_names = {own: common for common, names in family.linear_names.items() for own in names}
    found = {
        name: common_names[own]
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear) and _IN_BLOCK.search(name) and (own := name.rpartition(".")[2]) in common_names
    }
    if not found:
        raise RequestError(
            f"{where}: the tower family {family.model_type!r} does not say how its linear layers are called "
            "(linear_names). Leave this out to train the tower's own weights."
        )
    return found
