"""bf16 copies of the matrices that train, for forward and backward passes; the optimizer keeps the fp32 weights.

Autocast also casts a weight once a step, but it casts every gradient to fp32 before it is added, too, and the token
embedding table gets a gradient as large as itself from every packed sequence. The savings are measured in
docs/decisions.md.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from olivine.distributed import Processes


def keeps_working_weights(precision: str, processes: Processes) -> bool:
    """Return whether a stage computes with bf16 copies of what it trains: under bf16, on CUDA, in one process.

    Several processes already gather bf16 weights and sum gradients in fp32, by FSDP2's own policy. A CPU keeps using
    autocast, and so keeps its bits.
    """
    return precision == "bf16" and processes.device.type == "cuda" and not processes.several


class WorkingWeights:
    """bf16 copies in place of the trained weights of linear layers, until they are removed.

    Autocast would cast the same weights, so losses are bit-identical. Gradients of the copies are added in fp32 to
    those of the weights as soon as they are computed; those of the input embeddings only in the rows of the tokens
    that were looked up. Everything else that trains (norms, biases, convolutions) is unchanged.

    Args:
        model: the whole model, with its weights on their device; its modules are changed.
        trained: the optimizer's parameters. All other weights stay in place.
    """

    def __init__(self, model: Any, trained: Iterable[nn.Parameter]) -> None:
        self._masters: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._replaced: list[tuple[nn.Module, nn.Parameter]] = []
        self._hooks: list[RemovableHandle] = []
        known = {id(parameter) for parameter in trained if parameter.dtype == torch.float32}
        copies: dict[int, nn.Parameter] = {}
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.Linear) and isinstance(weight, nn.Parameter) and id(weight) in known:
                if id(weight) not in copies:
                    copies[id(weight)] = self._copied(weight)
                self._replace(module, copies[id(weight)])
        self._table: tuple[nn.Embedding, bool, int | None] | None = None
        table = model.get_input_embeddings()
        if isinstance(table, nn.Embedding) and id(table.weight) in known:
            self._read_by_rows(table)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights again, after they have changed."""
        if self._copies:
            torch._foreach_copy_(self._copies, self._masters)

    def remove(self) -> None:
        """Put the original weights back into the model."""
        for hook in self._hooks:
            hook.remove()
        for module, weight in self._replaced:
            module.weight = weight
        if self._table is not None:
            table, sparse, padding = self._table
            table.sparse, table.padding_idx = sparse, padding
        self._masters, self._copies, self._replaced, self._hooks, self._table = [], [], [], [], None

    def _replace(self, module: nn.Module, weight: nn.Parameter) -> None:
        assert isinstance(module.weight, nn.Parameter), "only modules with a weight are replaced"
        self._replaced.append((module, module.weight))
        module.weight = weight

    def _copied(self, master: nn.Parameter) -> nn.Parameter:
        copy = nn.Parameter(master.detach().to(torch.bfloat16))
        self._masters.append(master.detach())
        self._copies.append(copy.detach())

        def add(given: Tensor) -> None:
            assert given.grad is not None, "called once a gradient is computed"
            if master.grad is None:
                master.grad = given.grad.to(master.dtype)
            else:
                master.grad.add_(given.grad)
            given.grad = None

        self._hooks.append(copy.register_post_accumulate_grad_hook(add))
        return copy

    def _read_by_rows(self, table: nn.Embedding) -> None:
        """Restrict the table's gradient to the rows that were looked up; a padding token's row gets none, as before."""
        self._table = (table, table.sparse, table.padding_idx)
        master, padding = table.weight, table.padding_idx
        rows = nn.Parameter(master.detach())  # the same memory: no copy to refresh
        # With a padding index, the sparse gradient would first search for its positions, and wait for the device.
        table.sparse, table.padding_idx = True, None

        def add(given: Tensor) -> None:
            assert given.grad is not None, "called once a gradient is computed"
            positions, values = given.grad._indices()[0], given.grad._values()
            if padding is not None:
                values = values.masked_fill((positions == padding)[:, None], 0.0)
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            master.grad.index_add_(0, positions, values)
            given.grad = None

        self._hooks.append(rows.register_post_accumulate_grad_hook(add))
        self._replace(table, rows)
