"""What each method takes for one explained token before any is run: passes, seconds, memory beside the weights.

The time assumes a speed of matrix products measured on this machine in a moment; nothing of the model is run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from olivine.evaluation.budgets import bytes_per_token
from olivine.explanation.case import BUDGET
from olivine.explanation.explainer import backward_budget, saved_bytes
from olivine.explanation.methods.base import Method, Work
from olivine.model.vlm import VisionLanguageModel

#: Text tokens of a prompt, besides the image's: a short question in its template.
_TEXT = 30
#: Part of the speed of one large matrix product that a language model's layers reach (docs/explanation.md).
_EFFICIENCY = 0.6


@dataclass(frozen=True, slots=True)
class MethodEstimate:
    """One method's estimate: passes forward, passes forward and backward, seconds, bytes beside the weights."""

    name: str
    forwards: int
    backwards: int
    seconds: float
    bytes: int


def estimate_methods(
    vlm: VisionLanguageModel, methods: Sequence[Method], image_tokens: int, rate: float | None = None
) -> list[MethodEstimate]:
    """Return what methods take at this many image tokens.

    Args:
        vlm: the model.
        methods: which.
        image_tokens: the image's; its side of the grid changes nothing.
        rate: floating-point operations a second of a large matrix product; None measures it.
    """
    speed = _EFFICIENCY * (rate or measured_rate(vlm))
    tokens = image_tokens + _TEXT
    return [_estimate(vlm, method, tokens, image_tokens, speed) for method in methods]


def measured_rate(vlm: VisionLanguageModel) -> float:
    """Return the operations a second of a product as wide as the language model's, in its dtype, on its device."""
    config, first = vlm.language.config, next(vlm.language.parameters())
    rows = torch.randn(1024, config.hidden_size, dtype=torch.float32, device=vlm.device).to(first.dtype)
    weight = torch.randn(config.hidden_size, config.intermediate_size, device=vlm.device).to(first.dtype)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        product = rows @ weight
        float(product[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2.0 * len(rows) * weight.numel() / best


def _estimate(vlm: VisionLanguageModel, method: Method, tokens: int, image_tokens: int, speed: float) -> MethodEstimate:
    work = method.work(image_tokens)
    config = vlm.language.config
    blocks = sum(weight.numel() for layer in vlm.layers for weight in layer.parameters())
    attention = 4 * config.num_hidden_layers * tokens * tokens * config.hidden_size
    operations = 2 * blocks * tokens + attention
    # Frozen weights take no gradients: the backward pass has as many products as the forward one.
    passes = work.forwards + 2 * work.backwards
    return MethodEstimate(
        method.name, work.forwards, work.backwards, passes * operations / speed, _bytes(vlm, work, tokens)
    )


def _bytes(vlm: VisionLanguageModel, work: Work, tokens: int) -> int:
    if not work.forwards and not work.backwards:
        return 0
    config, dtype = vlm.language.config, next(vlm.language.parameters()).dtype
    budget = backward_budget(vlm) if work.backwards else BUDGET
    run = tokens * min(work.sequences, max(1, budget // tokens))
    found = run * bytes_per_token(config, dtype) + (run * saved_bytes(vlm) if work.backwards else 0)
    square = 4 * config.num_attention_heads * tokens * tokens
    if work.weights != "none":
        found += 4 * square  # scores, their mask, weights and a copy in the model's dtype, in one layer
    if work.weights == "all":
        found += config.num_hidden_layers * square * (4 if work.backwards else 1)  # with gradients, also what they save
    if work.every_layer:
        found += config.num_hidden_layers * run * config.hidden_size * 4
    return int(found)
