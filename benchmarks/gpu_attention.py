"""Attention without padding against SDPA by groups: outputs, gradients and milliseconds, at Gemma's head width."""

import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from loads import Shape, instructions, make_model
from torch import Tensor

from olivine.data.packing import balance, pack
from olivine.model import attention

CUDA = torch.cuda.is_available()
#: Query heads, key-value heads, width: Gemma-2B, Gemma-7B as published, and a Llama.
HEADS = ((8, 1, 256), (16, 16, 256), (32, 8, 128))
HEADS_IN_SMALL = ((4, 1, 32), (4, 4, 32))


def attention_rows(*, small: bool) -> Iterator[dict[str, Any]]:
    """Yield one row for each shape of heads; on a CPU a stand-in replaces the kernel, so that everything runs."""
    vlm = make_model(Shape(4096, 64, 2, 128, 4, 1, 64, 2, image=112 if small else 336))
    examples = instructions(vlm, 6 if small else 24)
    device = torch.device("cuda" if CUDA else "cpu")
    selected = max(balance([e.length for e in examples], 4096), key=len)
    row = pack([examples[i] for i in selected], [0] * sum(examples[i].sample.image is not None for i in selected))
    row = row.to(device)
    for heads, shared, width in HEADS_IN_SMALL if small else HEADS:
        found = {name: _measure(run, row, heads, shared, width) for name, run in _ways(row).items()}
        ours, plain = found["varlen"], found["groups"]
        apart = {
            name: float(((a - b).abs().max() / b.abs().max()).item())
            for name, a, b in zip(("out", "of_query", "of_key", "of_value"), ours[1], plain[1], strict=True)
        }
        yield {
            "rung": "attention",
            "heads": f"{heads} queries, {shared} keys, {width} wide",
            "tokens": len(row.ids),
            "kernel": "torch's varlen_attn" if CUDA else "a stand-in",
            "varlen_ms": round(1e3 * ours[0], 3),
            "groups_ms": round(1e3 * plain[0], 3),
            "differences": {name: round(value, 5) for name, value in apart.items()},
            "largest_difference": max(apart.values()),
        }


def _ways(row: Any) -> dict[str, Callable[..., Tensor]]:
    def varlen(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kernel = None if CUDA else stand_in
        options = {"kernel": kernel} if "kernel" in inspect.signature(attention.varlen_attention).parameters else {}
        return attention.varlen_attention(query, key, value, row.spans, None, **options)

    def groups(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Without spans the kernel has nothing to run on.
        return attention.packed_attention(
            torch.nn.Identity(), query, key, value, None, packed_groups=row.groups, packed_spans=None
        )[0]

    return {"varlen": varlen, "groups": groups}


def _measure(run: Callable[..., Tensor], row: Any, heads: int, shared: int, width: int) -> tuple[float, list[Tensor]]:
    """(median seconds of forward and backward, output and gradients in fp32)."""
    draw = torch.Generator(device=row.ids.device).manual_seed(0)
    dtype = torch.bfloat16 if CUDA else torch.float32
    given = [
        torch.randn(1, count, len(row.ids), width, device=row.ids.device, dtype=dtype, generator=draw).requires_grad_()
        for count in (heads, shared, shared)
    ]
    taken = []
    for _ in range(13 if CUDA else 2):
        for state in given:
            state.grad = None
        if CUDA:
            torch.cuda.synchronize()
        began = time.perf_counter()
        out = run(*given)
        slope = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).to(out.dtype)
        out.backward(slope)
        if CUDA:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    gradients = [state.grad.float() for state in given if state.grad is not None]
    return statistics.median(taken[len(taken) // 4 :]), [out.detach().float(), *gradients]


def stand_in(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    _longest_query: int,
    _longest_key: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What the kernel computes, span by span: causal from the last query and key backwards."""
    assert window_size == (-1, 0), "causal"
    repeats = query.shape[1] // key.shape[1] if enable_gqa else 1
    parts = []
    for begin, end, first, last in zip(
        *(ends[at].tolist() for ends in (query_ends, key_ends) for at in (slice(None, -1), slice(1, None))), strict=True
    ):
        q, k, v = query[begin:end], key[first:last], value[first:last]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        mask = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        attended = F.scaled_dot_product_attention(
            q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask, scale=scale
        )
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)
