"""The language model sharded with FSDP2; tower and connector stay whole on each process, their gradients summed.

A single-process run uses nothing here. Which packed sequences a process takes is decided in `data.batches`.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from olivine.distributed import Processes
from olivine.errors import RequestError
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import ShardingRecipe


class Shards:
    """A language model's parameters, gradients and optimiser state, sharded along their first dimension.

    Only the language model is sharded. Every process runs the same number of its forward and backward passes, so that
    no process waits for a collective that another never enters; a tower or connector runs only where a packed sequence
    has an image.

    Args:
        root: the module whose forward is one packed sequence's loss; contains embedding, backbone and head.
        layers: the backbone's blocks, each gathered just before it runs.
        recipe: the recipe's `sharding` section.
        bf16: gather in bf16 (sums of gradients stay in fp32).
    """

    def __init__(
        self, root: nn.Module, layers: Iterable[nn.Module], recipe: ShardingRecipe, processes: Processes, *, bf16: bool
    ) -> None:
        mesh = make_mesh(recipe, processes)
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None,
            reduce_dtype=torch.float32 if bf16 else None,
            cast_forward_inputs=False,
        )
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=recipe.gather_twice)
        fully_shard(root, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self._root: FSDPModule = root  # type: ignore[assignment]  # fully_shard changes the module's class in place
        self._recipe = recipe

    def before_sequence(self, *, last: bool) -> None:
        """Keep gradients local until the last packed sequence of a step, then sum them once."""
        sum_now = last or self._recipe.sum_each_sequence
        self._root.set_requires_gradient_sync(sum_now)
        self._root.set_is_last_backward(last)
        self._root.set_reshard_after_backward(last or self._recipe.gather_twice)

    def rest(self) -> None:
        """Release gathered weights; a backward pass does so automatically, a forward pass alone does not."""
        for module in self._root.modules():  # type: ignore[attr-defined]
            if isinstance(module, FSDPModule):
                module.reshard()


def make_mesh(recipe: ShardingRecipe, processes: Processes) -> Any:
    """Return a one-dimensional mesh of all processes; with `replicas`, that many groups, each holding the model (HSDP).

    Raises:
        RequestError: the processes do not divide evenly into replicas.
    """
    if processes.world_size % recipe.replicas:
        raise RequestError(
            f"sharding.replicas: {recipe.replicas} does not divide the {processes.world_size} processes; "
            "give the number of nodes, or 1."
        )
    if recipe.replicas == 1:
        return init_device_mesh(processes.device.type, (processes.world_size,), mesh_dim_names=("shard",))
    shape = (recipe.replicas, processes.world_size // recipe.replicas)
    return init_device_mesh(processes.device.type, shape, mesh_dim_names=("replicate", "shard"))


def average_whole_gradients(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Average over processes the gradients of unsharded parameters, in one message.

    A process that had no image has no gradients, which count as zero.
    """
    whole = [p for p in parameters if not isinstance(p, DTensor)]
    if not whole or not processes.several:
        return
    for parameter in whole:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in whole if p.grad is not None])
    dist.all_reduce(flat)
    flat /= processes.world_size
    for parameter, average in zip(whole, flat.split([p.numel() for p in whole]), strict=True):
        assert parameter.grad is not None, "set above"
        parameter.grad.copy_(average.view_as(parameter))


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> float:
    """Scale all gradients down to a common norm of at most `largest` and return the norm before.

    Sharded and whole parameters are measured separately, since no single tensor operation takes both.
    """
    selected = list(parameters)
    sharded = [p for p in selected if isinstance(p, DTensor)]
    if not sharded:
        return float(nn.utils.clip_grad_norm_(selected, largest))
    whole = [p for p in selected if not isinstance(p, DTensor)]
    norms = [
        nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in (sharded, whole) if group
    ]
    norm = math.hypot(*(float(n.full_tensor() if isinstance(n, DTensor) else n) for n in norms))
    if math.isfinite(norm) and math.isfinite(largest):
        for group in (sharded, whole):
            nn.utils.clip_grads_with_norm_(group, largest, torch.tensor(norm, device=selected[0].device))
    return norm


def whole_weights(vlm: VisionLanguageModel, dtype: torch.dtype, processes: Processes) -> dict[str, Tensor]:
    """Return the model's state with all shards gathered, on the first process's CPU; the others get nothing.

    All processes must call it. Weights that are one tensor under two names stay one.
    """
    gathered: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, parameter in vlm.model.named_parameters(remove_duplicate=False):
        if id(parameter) not in gathered:
            full = parameter.detach()
            full = full.full_tensor() if isinstance(full, DTensor) else full
            gathered[id(parameter)] = full.to("cpu", dtype) if processes.is_first else torch.empty(0)
        state[name] = gathered[id(parameter)]
    buffers = {name: value for name, value in vlm.model.state_dict().items() if name not in state}
    return {**state, **buffers} if processes.is_first else {}
