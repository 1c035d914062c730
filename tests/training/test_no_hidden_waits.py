"""Operations whose result's size or value the host must know: on a GPU each waits for all work queued before it.

They are the same on a CPU, where they can be counted.
"""

from collections import Counter

import pytest
import torch
from tiny_runs import QUIET, make_recipe
from torch.utils._python_dispatch import TorchDispatchMode

from olivine.model import attention
from olivine.training.run import train
from olivine.training.stage import Stage

_WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "is_nonzero",
    "equal",
    "repeat_interleave.Tensor",
)
#: Of a step, whatever the number of its packed sequences and layers: the loss, the gradients' norm, and a margin.
MOST = 10


class Waits(TorchDispatchMode):
    """Counts them, including reads and assignments by boolean index, which first compute the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
        by_booleans = name.startswith(("index", "_index_put", "_unsafe_index")) and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices
        )
        if by_booleans or name.startswith(_WAITING):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def no_kernel(q, k, v, ends_q, ends_k, longest_q, longest_k, *, scale, window_size, enable_gqa=False):
    """Stands in for a kernel that never waits."""
    return q + (k.sum() + v.sum()) * 0


@pytest.fixture(params=["without padding", "by groups"])
def counted(request, monkeypatch):
    """The waits of every step."""
    if request.param == "without padding":
        monkeypatch.setattr(attention, "why_not_varlen", lambda *_: None)
        monkeypatch.setattr(attention, "KERNEL", no_kernel)
        monkeypatch.setattr(attention, "KERNEL_GROUPS_HEADS", True)
    steps: list[tuple[int, Counter[str]]] = []
    original = Stage._step

    def step(self, number, batch, waited, log):
        with Waits() as waits:
            loss = original(self, number, batch, waited, log)
        steps.append((len(batch.sequences), waits.found))
        return loss

    monkeypatch.setattr(Stage, "_step", step)
    return steps


STAGES = {
    "stage 1": ["connector"],
    "stage 2": ["connector", "language"],
    "all parts": ["vision", "connector", "language"],
}


@pytest.mark.parametrize("name", STAGES)
def test_a_step_waits_at_most_ten_times(dataset, tmp_path, counted, name):
    stages = [{"name": "a", "train": STAGES[name], "steps": 3, "batch": 12, "held_out": 0}]
    train(make_recipe(dataset, tmp_path / "run", stages=stages, optimizer={"precision": "bf16"}), QUIET)
    assert len(counted) == 3
    for sequences, waits in counted:
        assert sequences >= 3, "several packed sequences"
        assert waits, "the loss is read, so a counter that counts nothing would be noticed"
        assert waits.total() <= MOST, waits
