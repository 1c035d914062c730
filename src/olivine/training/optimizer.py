"""AdamW over the modules that train, and the learning rate of each step.

Which modules train is decided in `stage`.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from olivine.recipe import OptimizerRecipe

#: In a parameter group: the rate that its schedule rises to.
_PEAK = "peak_lr"


def make_optimizer(
    parameters: Iterable[nn.Parameter], recipe: OptimizerRecipe, lr: float | Sequence[float]
) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, never on biases and norms.

    Args:
        parameters: those that train.
        recipe: the recipe's `optimizer` section.
        lr: the peak learning rate, or one for each parameter.
    """
    selected = list(parameters)
    peaks = list(lr) if isinstance(lr, Sequence) else [lr] * len(selected)
    rated = list(zip(selected, peaks, strict=True))
    # Sharded and unsharded weights cannot share a fused step.
    groups = [
        {
            "params": [
                p for p, own in rated if (own, isinstance(p, DTensor), p.ndim >= 2) == (peak, sharded, matrices)
            ],
            "weight_decay": recipe.weight_decay * matrices,
            "lr": peak,
            _PEAK: peak,
        }
        for peak in dict.fromkeys(peaks)
        for sharded in (False, True)
        for matrices in (True, False)
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], betas=recipe.betas, eps=recipe.epsilon, fused=True
    )


def set_learning_rates(optimizer: torch.optim.Optimizer, recipe: OptimizerRecipe, step: int, steps: int) -> None:
    """Give every group of `make_optimizer` its rate of a step (from 0), each by the schedule to its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, group[_PEAK], step, steps)


def learning_rate(recipe: OptimizerRecipe, peak: float, step: int, steps: int) -> float:
    """Return the learning rate of a step (from 0): a linear rise over the warm-up, then the schedule.

    The cosine falls to zero at the end, as in transformers' `get_cosine_schedule_with_warmup`, which LLaVA uses.
    """
    warmup = math.ceil(recipe.warmup * steps)
    if step >= warmup and recipe.schedule == "constant":
        return peak
    # One step further than transformers, whose very first step has rate zero and changes nothing.
    return warmup_then_cosine(peak, step, steps, warmup=warmup, peak_after=warmup + 1)


def warmup_then_cosine(
    peak: float, step: int, steps: int, *, warmup: int, peak_after: int, lowest: float = 0.0
) -> float:
    """Return the learning rate of a step (from 0): a linear rise over `warmup` steps, then half a cosine.

    Args:
        peak: the highest rate.
        step: which step, from 0.
        steps: total optimizer steps.
        warmup: steps of the rise.
        peak_after: the number of steps after which the rise would reach the peak; `warmup` or one more.
        lowest: fraction of the peak that the cosine falls to.
    """
    if step < warmup:
        return peak * (step + 1) / peak_after
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * progress)))
