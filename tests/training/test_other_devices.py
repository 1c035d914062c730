"""Training checkpoints moved between machines with and without a GPU, with a stand-in for the GPU."""

import pytest
import torch
from torch.distributed.checkpoint.staging import StagingOptions

from olivine.distributed import Processes
from olivine.training import staging
from olivine.training import training_checkpoints as resume
from olivine.training.training_checkpoints import TrainingCheckpoints, TrainingState


class StandIn:
    """Stands in for torch.cuda's random numbers: a state that can be read, set and seeded."""

    def __init__(self):
        self.state = torch.arange(16, dtype=torch.uint8)
        self.seeds = []

    def put_in(self, patch):
        # torch's own answer stays: torch's file writer would otherwise look for a CUDA stream.
        patch.setattr(resume, "_has_gpu", lambda: True)
        patch.setattr(torch.cuda, "get_rng_state", lambda: self.state.clone())
        patch.setattr(torch.cuda, "set_rng_state", lambda state: setattr(self, "state", state.clone()))
        patch.setattr(torch.cuda, "manual_seed", self.seeds.append)


def make_state(value):
    weight = torch.nn.Parameter(torch.full((2, 3), float(value)))
    return weight, TrainingState({"w": weight}, torch.optim.AdamW([weight]))


def points_in(folder, *, background=False):
    return TrainingCheckpoints(folder, keep=2, processes=Processes(), background=background)


def written(folder, *, on_gpu):
    """A checkpoint of step 3, written with or without a (stand-in for a) GPU; returns the CPU's random state in it."""
    with pytest.MonkeyPatch.context() as patch:
        if on_gpu:
            StandIn().put_in(patch)
        points_in(folder).save(3, make_state(7)[1])
    return torch.get_rng_state()


@pytest.mark.parametrize("background", [False, True])
def test_written_on_a_cpu_and_read_with_a_gpu(tmp_path, monkeypatch, background):
    random = written(tmp_path, on_gpu=False)
    torch.rand(5)
    gpu = StandIn()
    before = gpu.state.clone()
    gpu.put_in(monkeypatch)
    weight, state = make_state(0)
    assert points_in(tmp_path, background=background).load(state) == 3
    assert torch.equal(weight, torch.full((2, 3), 7.0))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(gpu.state, before), "there was no state to restore"
    assert len(gpu.seeds) == 1


def test_resumed_twice_with_a_gpu_its_random_numbers_are_the_same_ones(tmp_path, monkeypatch):
    written(tmp_path, on_gpu=False)
    gpu = StandIn()
    gpu.put_in(monkeypatch)
    for _ in range(2):
        torch.rand(3)
        points_in(tmp_path).load(make_state(0)[1])
    assert gpu.seeds[0] == gpu.seeds[1]


def test_written_with_a_gpu_and_read_on_a_cpu(tmp_path):
    random = written(tmp_path, on_gpu=True)
    torch.rand(5)
    weight, state = make_state(0)
    assert points_in(tmp_path).load(state) == 3
    assert torch.equal(weight, torch.full((2, 3), 7.0))
    assert torch.equal(torch.get_rng_state(), random)


def test_written_and_read_with_a_gpu_its_random_numbers_continue(tmp_path, monkeypatch):
    written(tmp_path, on_gpu=True)
    gpu = StandIn()
    gpu.state = torch.zeros(16, dtype=torch.uint8)
    gpu.put_in(monkeypatch)
    points_in(tmp_path).load(make_state(0)[1])
    assert torch.equal(gpu.state, torch.arange(16, dtype=torch.uint8))
    assert not gpu.seeds


class FakeTensor:
    """Imitates a tensor on a GPU."""

    is_cuda = True
    nbytes = 100


@pytest.mark.parametrize(("free", "pinned"), [(1000, True), (150, False), (None, False)])
def test_a_gpus_tensors_are_staged_in_pinned_memory_if_there_is_enough(monkeypatch, free, pinned):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(staging, "available_memory", lambda: free)
    monkeypatch.setattr(staging, "DefaultStager", lambda options: asked.append(options) or object())
    kept = staging.Staging()
    tensors = {"weights": FakeTensor()}
    assert kept.stager(tensors) is kept.stager(tensors), "its memory is reused"
    assert asked == [
        StagingOptions(
            use_pinned_memory=pinned, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=True
        )
    ]


def test_free_memory_as_the_system_reports_it(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   40 kB\n")
    assert staging.available_memory(tmp_path / "meminfo") == 40 * 1024
    assert staging.available_memory(tmp_path / "none") is None
    (tmp_path / "meminfo").write_text("MemAvailable: many\n")
    assert staging.available_memory(tmp_path / "meminfo") is None


def test_checkpoints_in_the_background_reuse_the_same_memory(tmp_path):
    weight, state = make_state(1)
    points = points_in(tmp_path, background=True)
    for step in (1, 2):
        with torch.no_grad():
            weight.fill_(step)
        points.save(step, state)
        with torch.no_grad():
            weight.zero_()
    points.finish()
    assert points.load(state) == 2
    assert torch.equal(weight, torch.full((2, 3), 2.0))
