"""One loop for every backbone: steps, learning rate, progress, a log, training checkpoints, held-out figures.

What a step computes is defined in each backbone's own module.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from olivine.errors import RunError
from olivine.files import append_json_line, atomic_file, keep_json_lines, write_json
from olivine.locks import exclusive_lock
from olivine.training.optimizer import warmup_then_cosine

LOG, RESUME, FIGURES = "pretraining.jsonl", "resume.pt", "figures.json"
_LOG_EVERY = 20


class Pretraining(ABC):
    """A backbone in training.

    Attributes:
        steps: total optimiser steps.
        trained: every module that takes gradients, as one; training checkpoints hold it.
        optimizers: over `trained`, each parameter in one of them; their groups' rates are set by the loop.
        peak: the highest learning rate.
        restart: the step of a warm restart (arXiv:1608.03983), and its peak rate; None for none.
        origin: hash of the weights that it is expanded from (Net2Net); empty if it starts from random weights.
    """

    steps: int
    peak: float
    trained: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    restart: tuple[int, float] | None = None
    origin: str = ""

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.trained.parameters()).device

    @abstractmethod
    def step(self, index: int) -> dict[str, float]:
        """Compute the gradients of step `index`, which determines its data; return what to log, `loss` among it."""

    def after_step(self, index: int) -> None:  # noqa: B027
        """Do what follows the optimiser's step (a teacher's moving average)."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """Measure held-out figures, on splits that training never uses."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the backbone as an ordinary transformers folder."""


def pretrain(job: Pretraining, folder: Path, *, save_every: int, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Train to the end, resuming from the folder's training checkpoint if there is one; return the held-out figures.

    Raises:
        RequestError: another process is training it.
        RunError: the loss is not finite, or the training checkpoint was expanded from other weights.
    """
    with exclusive_lock(folder):
        return _pretrain(job, folder, save_every, on_step)


def _pretrain(job: Pretraining, folder: Path, save_every: int, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    first, seconds = _resume(job, folder)
    began = time.monotonic() - seconds
    job.trained.train()
    for index in range(first, job.steps):
        job.trained.zero_grad(set_to_none=True)
        # Weights stay fp32; matrix products in bf16 are a fifth faster on CPUs and several times on GPUs.
        with torch.autocast(job.device.type, torch.bfloat16):
            measured = job.step(index)
        if not math.isfinite(measured["loss"]):
            raise RunError(f"{folder.name}: the loss of step {index} is {measured['loss']}; try a lower rate.")
        update(job, _rate(job, index))
        job.after_step(index)
        on_step(index + 1, job.steps)
        elapsed = time.monotonic() - began
        if index % _LOG_EVERY == 0 or index + 1 == job.steps:
            row = {name: round(value, 5) for name, value in measured.items()}
            append_json_line(folder / LOG, {"step": index, "steps": job.steps, **row, "seconds": round(elapsed, 1)})
        if (index + 1) % save_every == 0 and index + 1 < job.steps:
            _save(job, folder, index + 1, elapsed)
    job.trained.eval()
    figures = {
        **job.figures(),
        "steps": job.steps,
        "seconds": round(time.monotonic() - began),
        "threads": torch.get_num_threads(),
    }
    job.save(folder)
    write_json(folder / FIGURES, figures)
    (folder / RESUME).unlink(missing_ok=True)
    return figures


def update(job: Pretraining, rate: float) -> None:
    """Take the optimisers' step at a rate, with gradients clipped to norm 1."""
    nn.utils.clip_grad_norm_(job.trained.parameters(), 1.0)
    for optimizer in job.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def _rate(job: Pretraining, index: int) -> float:
    """Return the rate: linear warmup over 4 %, then a cosine down to a hundredth; both again from a restart on."""
    steps, peak = job.steps, job.peak
    if job.restart is not None:
        again, restarted = job.restart
        if index < again:
            steps = again
        else:
            index, steps, peak = index - again, steps - again, restarted
    warmup = max(1, round(0.04 * steps))
    return warmup_then_cosine(peak, index, steps, warmup=warmup, peak_after=warmup, lowest=0.01)


def _save(job: Pretraining, folder: Path, step: int, seconds: float) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "origin": job.origin,
        "weights": job.trained.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in job.optimizers],
    }
    with atomic_file(folder / RESUME) as path:
        torch.save(state, path)


def _resume(job: Pretraining, folder: Path) -> tuple[int, float]:
    path = folder / RESUME
    if not path.is_file():
        # A log without a training checkpoint belongs to a run that was killed before its first one.
        (folder / LOG).unlink(missing_ok=True)
        return 0, 0.0
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["origin"] != job.origin:
        raise RunError(f"{path} was expanded from other weights than are there now. Remove {folder} to start again.")
    job.trained.load_state_dict(state["weights"])
    for optimizer, state_of_one in zip(job.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(state_of_one)
    # The steps since are repeated and logged again.
    keep_json_lines(folder / LOG, lambda row: row["step"] < state["step"])
    return int(state["step"]), float(state["seconds"])


def muon(module: nn.Module, transformers: Sequence[nn.Module], weight_decay: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the given transformers' layers, AdamW for everything else in the module.

    Both use the same rate: the size of Muon's updates is matched to AdamW's (arXiv:2502.16982).
    """
    # Each has its layers in its only ModuleList, whose name depends on the version of transformers.
    layers = [found for model in transformers for found in model.modules() if isinstance(found, nn.ModuleList)]
    matrices = [p for found in layers for p in found.parameters() if p.requires_grad and p.ndim == 2]
    in_muon = {id(parameter) for parameter in matrices}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in in_muon]
    return [
        torch.optim.Muon(matrices, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
