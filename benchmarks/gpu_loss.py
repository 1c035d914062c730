"""The loss over a large vocabulary, Olivine's against PyTorch's fused one: seconds and memory, forward and backward."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olivine.model.loss import labelled_loss

CUDA = torch.cuda.is_available()
#: Vocabulary, hidden width, labelled positions: Gemma's and Llama's heads on a packed sequence of replies.
HEADS = ((256_000, 2048, 4096), (32_000, 4096, 4096))
HEADS_IN_SMALL = ((4096, 64, 128),)


def loss_rows(*, small: bool) -> Iterator[dict[str, Any]]:
    """Yield one row for each head; the fused loss only on versions of PyTorch that have it."""
    for vocabulary, width, labels in HEADS_IN_SMALL if small else HEADS:
        device, dtype = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
        rng = torch.Generator(device=device).manual_seed(0)
        hidden = torch.randn(labels, width, device=device, dtype=dtype, generator=rng).requires_grad_()
        targets = torch.randint(0, vocabulary, (labels,), device=device, generator=rng)
        head = nn.Linear(width, vocabulary, bias=False, device=device, dtype=dtype)
        found = {name: _measure(run, hidden, targets, head) for name, run in _ways().items()}
        row: dict[str, Any] = {"rung": "loss", "vocabulary": vocabulary, "width": width, "labels": labels}
        for name, (seconds, memory, _) in found.items():
            row |= {f"{name}_ms": round(1e3 * seconds, 2), f"{name}_mib": round(memory / 2**20)}
        ours = found["olivine"][2]
        row["loss_difference"] = {name: round(abs(loss - ours) / ours, 8) for name, (_, _, loss) in found.items()}
        yield row


def _ways() -> dict[str, Callable[[Tensor, Tensor, nn.Linear], Tensor]]:
    def olivine(hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
        return labelled_loss(hidden, targets, head, torch.arange(len(targets), device=targets.device))

    def fused(hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
        # Its own choice of chunks is for bf16 on GPUs.
        given = {} if CUDA else {"batch_chunk_size": 64, "chunking_method": None}
        options = nn.LinearCrossEntropyOptions(**given)
        return F.linear_cross_entropy(hidden, head.weight, targets, reduction="sum", options=options).float()

    return {"olivine": olivine} | ({"fused": fused} if hasattr(nn, "LinearCrossEntropyOptions") else {})


def _measure(run: Callable[..., Tensor], hidden: Tensor, targets: Tensor, head: nn.Linear) -> tuple[float, int, float]:
    """(median seconds of forward and backward, peak bytes on a GPU, the loss)."""
    taken, loss = [], torch.zeros(())
    for _ in range(12 if CUDA else 2):
        hidden.grad = head.weight.grad = None
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        began = time.perf_counter()
        loss = run(hidden, targets, head)
        loss.backward()
        if CUDA:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if CUDA else 0
    return statistics.median(taken[len(taken) // 4 :]), peak, float(loss.detach())
