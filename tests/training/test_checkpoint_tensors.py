"""A training checkpoint that misses tensors, or has others, is refused by name."""

import pytest
import torch
from torch import nn

from olivine.distributed import Processes
from olivine.errors import RunError
from olivine.training.training_checkpoints import TrainingCheckpoints, TrainingState


def state(width=3, *, names=("a", "b")):
    parameters = {name: nn.Parameter(torch.ones(width)) for name in names}
    return TrainingState(parameters, torch.optim.AdamW(parameters.values()))


CHANGES = {
    "a weight more in the model": ({"names": ("a", "b", "c")}, r"4 tensors are missing: optimizer.exp_avg.c"),
    "a weight less in the model": ({"names": ("a",)}, r"4 tensors are unexpected: optimizer.exp_avg.b"),
    "another shape": ({"width": 5}, r"tensors are of another shape: optimizer.exp_avg.a"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_training_checkpoint_of_another_model_is_refused_by_name(tmp_path, change):
    points = TrainingCheckpoints(tmp_path, keep=2, processes=Processes(), background=False)
    points.save(4, state())
    assert points.load(state()) == 4
    values, message = CHANGES[change]
    with pytest.raises(RunError, match=message):
        points.load(state(**values))
