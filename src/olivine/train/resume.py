"""Training state to go on from: weights that train, optimiser, random numbers, step.

Whole models for use are written by `model.checkpoint`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from olivine.errors import RunError
from olivine.files import atomic_file
from olivine.train.objectives import Objective

STATE = "resume.pt"


def save_state(
    folder: Path,
    *,
    step: int,
    weights: dict[str, nn.Parameter],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that decides the steps from `step` on, atomically."""
    state = {
        "step": step,
        "weights": {name: parameter.detach() for name, parameter in weights.items()},
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    with atomic_file(folder / STATE) as temporary:
        torch.save(state, temporary)


def load_state(
    folder: Path,
    *,
    weights: dict[str, nn.Parameter],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Put a saved state back; returns the step to go on with, 0 if none was saved.

    Raises:
        RunError: the file is damaged or belongs to another model.
    """
    path = folder / STATE
    if not path.is_file():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(state["weights"][name])
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return int(state["step"])
    except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        raise RunError(f"{path}: cannot be resumed from ({error}). Delete it to start this stage again.") from None
