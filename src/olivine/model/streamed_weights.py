"""Models without memory, whose weights exist only while the module that uses them runs.

A model larger than the memory is so run by transformers' own code, one module at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook


@contextmanager
def without_weights() -> Iterator[None]:
    """Have modules that are made here keep their parameters on the meta device; buffers are computed as usual."""

    def to_meta(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None:
            return None
        return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)

    # torch's annotation omits what its documentation has the hook return.
    handle = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def streamed(model: nn.Module, read: Callable[[str], Tensor]) -> Iterator[None]:
    """Let a model without weights run: each module's own are read when it is called, and dropped when it returns.

    Args:
        model: made by `without_weights`.
        read: returns a parameter by its name in the model.
    """
    handles = []
    for name, module in model.named_modules():
        weights = _Weights(name, module, read)
        if weights.names:
            handles += [
                module.register_forward_pre_hook(weights.load),
                module.register_forward_hook(weights.drop, always_call=True),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Weights:
    """The parameters that a module uses itself, and how they come and go."""

    def __init__(self, name: str, module: nn.Module, read: Callable[[str], Tensor]) -> None:
        self._read = read
        self._empty: list[tuple[nn.Module, str, str, nn.Parameter]] = []
        # Attention of torch's own uses its output layer's weights without calling that layer.
        users = module.named_modules() if isinstance(module, nn.MultiheadAttention) else [("", module)]
        for inner, user in users:
            at = ".".join(part for part in (name, inner) if part)
            for key, empty in user._parameters.items():
                if empty is not None:
                    self._empty.append((user, key, f"{at}.{key}" if at else key, empty))

    @property
    def names(self) -> list[str]:
        """Their names in the model."""
        return [name for _user, _key, name, _empty in self._empty]

    def load(self, _module: nn.Module, _given: object) -> None:
        """Read them."""
        for user, key, name, _empty in self._empty:
            user._parameters[key] = nn.Parameter(self._read(name), requires_grad=False)

    def drop(self, _module: nn.Module, _given: object, _made: object) -> None:
        """Put the empty ones back."""
        for user, key, _name, empty in self._empty:
            user._parameters[key] = empty
