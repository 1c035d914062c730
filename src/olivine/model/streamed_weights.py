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

    # torch's annotation leaves out what its documentation has the hook return.
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
        own = {key: each for key, each in module._parameters.items() if each is not None}
        if not own:
            continue

        def load(module: nn.Module, _given: object, name: str = name, own: dict[str, nn.Parameter] = own) -> None:
            for key in own:
                weight = read(f"{name}.{key}" if name else key)
                module._parameters[key] = nn.Parameter(weight, requires_grad=False)

        def drop(module: nn.Module, _given: object, _made: object, own: dict[str, nn.Parameter] = own) -> None:
            module._parameters.update(own)

        handles += [module.register_forward_pre_hook(load), module.register_forward_hook(drop, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
