"""One hidden state of a vision tower, without computing the layers after it; or several concatenated.

Which layer is used, and what happens to its class token, is in `vlm`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Reached(Exception):  # noqa: N818  # not an error: the exit from a forward pass
    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class _End(nn.Module):
    """A stand-in for the first layer that is not needed."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        raise _Reached(hidden_states)


def hidden_state(tower: Any, layer: int, pixels: Tensor) -> Tensor:
    """Return `hidden_states[layer]` of a tower, `[images, tokens, tower width]`, bit-identical to a full pass.

    Later layers do not run, nor does the final norm. The tower keeps all of them: they are removed only for the pass,
    so one tower must not run in two threads at once. The last layer's state, and that of a tower whose layers are
    not found, is taken from a full pass.

    Args:
        tower: of a registered family; the state of a joined tower is taken from a full pass.
        layer: as in `vision_feature_layer`: 0 is the first layer's input, -1 the last layer's output.
        pixels: `[images, 3, size, size]`, with the tower's dtype and on its device.
    """
    count: int = tower.config.num_hidden_layers
    needed = layer if layer >= 0 else count + 1 + layer
    found = _layers(tower, count)
    if needed >= count or found is None:
        whole: Tensor = tower(pixels, output_hidden_states=True).hidden_states[layer]
        return whole
    parent, name, layers = found
    setattr(parent, name, nn.ModuleList([*layers[:needed], _End()]))
    try:
        tower(pixels)
    except _Reached as reached:
        return reached.states
    finally:
        setattr(parent, name, layers)
    raise AssertionError("the tower ran past its replaced layer")


def hidden_states(tower: Any, layers: Sequence[int], pixels: Tensor) -> Tensor:
    """Return several of a tower's hidden states concatenated by channel, `[images, tokens, layers * tower width]`.

    They are taken from a full pass. Arguments as in `hidden_state`.
    """
    states = tower(pixels, output_hidden_states=True).hidden_states
    return torch.cat([states[layer] for layer in layers], dim=-1)


def _layers(tower: Any, count: int) -> tuple[nn.Module, str, nn.ModuleList] | None:
    """Return the tower's layers as (parent module, attribute name, layers), if they are unambiguous."""
    found = [
        (parent, name, child)
        for parent in tower.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    return found[0] if len(found) == 1 else None
