"""Two processes over gloo against one: the same losses and samples, and checkpoints from which either resumes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_runs import QUIET, make_recipe, same, weights

from olivine.data.packing import balance, distribute
from olivine.distributed import Processes
from olivine.errors import RequestError
from olivine.files import read_json_lines, write_text
from olivine.model import checkpoint
from olivine.recipe import ShardingRecipe, load
from olivine.training import stage as stage_module
from olivine.training.run import train
from olivine.training.sharding import make_mesh

STEPS = 50

#: Run by each of two processes: the recipes in turn, stopped by SIGTERM to the second process at a given step.
DRIVER = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from rich.console import Console
from olivine.errors import Stopped
from olivine.recipe import load
from olivine.training import run, stage as stage_module
from olivine.distributed import init_distributed
from olivine.process_end import end_process
from olivine.training.run import train

@contextmanager
def already_met():
    yield processes

original = stage_module.Stage._step

def taken(self, number, batch, waited, log):
    if number == self.stop_at and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return original(self, number, batch, waited, log)

stage_module.Stage._step = taken
with init_distributed() as processes:  # once: a process that left the others cannot meet them again
    run.init_distributed = already_met
    for argument in sys.argv[1:]:
        path, _, stop_at = argument.partition("@")
        stage_module.Stage.stop_at = int(stop_at) if stop_at else None
        try:
            train(load(Path(path)), Console(stderr=True))
        except Stopped as stop:
            Path(__file__).with_name("stopped-" + os.environ["RANK"]).write_text(str(stop))
end_process(0)
"""


def two_processes(folder, *arguments):
    (folder / "driver.py").write_text(DRIVER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(folder / "driver.py"), *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def stages(**more):
    """The tower trains too, so that whole and sharded weights, samples with images and text alone all occur."""
    base = {"validate_every": 25, "batch": 8, "lr": 1e-3}
    return [{**base, "name": "a", "train": ["vision", "connector", "language"], "steps": STEPS, **more}]


def recipe_file(folder, dataset, name, output=None, **more):
    recipe = make_recipe(dataset, folder / (output or name), **more)
    write_text(folder / f"{name}.yaml", recipe.to_yaml())
    return folder / f"{name}.yaml", recipe


def losses(folder):
    return [sequence["loss"] for sequence in read_json_lines(folder / "metrics.jsonl") if "loss" in sequence]


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Runs of one process, of two that are stopped at step 20, and short ones of two with other settings."""
    folder = tmp_path_factory.mktemp("sharded")
    train(recipe_file(folder, dataset, "one", stages=stages())[1], QUIET)
    path, _ = recipe_file(folder, dataset, "two", stages=stages())
    frozen = [
        {"name": "align", "train": ["connector"], "steps": 6, "validate_every": 3},
        {"name": "instruct", "steps": 6},
    ]
    short = {}
    for name, more in {
        "frozen": {"stages": frozen},
        "bf16": {"stages": frozen, "optimizer": {"precision": "bf16"}},
        "replicas": {"stages": frozen, "sharding": {"replicas": 2}},
        "eager": {"stages": frozen, "sharding": {"gather_twice": False, "sum_each_sequence": True}},
    }.items():
        short[name], recipe = recipe_file(folder, dataset, name, **more)
        if name in {"frozen", "bf16"}:
            train(recipe.model_copy(update={"output": folder / f"{name}-one"}), QUIET)
    done = two_processes(folder, f"{path}@20", *short.values())
    return folder, done


def test_a_signal_to_one_process_makes_all_save_and_exit_with_zero(runs):
    folder, _ = runs
    said = [(folder / f"stopped-{rank}").read_text() for rank in range(2)]
    assert all("saved at step 21" in stop for stop in said)
    assert [p.name for p in (folder / "two" / "a" / "resume").iterdir()] == ["step-00000021"]
    manifest = json.loads((folder / "two" / "a" / "resume" / "step-00000021" / "point.json").read_text())
    assert manifest["processes"] == 2
    assert len(manifest["files"]) == 2


def test_from_two_to_one_and_back_the_losses_are_those_of_one(runs, monkeypatch):
    folder, _ = runs
    path = folder / "two.yaml"

    class KilledError(Exception):
        pass

    original = stage_module.Stage._step

    def taken(self, number, batch, waited, log):
        if number == 35:
            raise KilledError
        return original(self, number, batch, waited, log)

    monkeypatch.setattr(stage_module.Stage, "_step", taken)
    values = load(path, ["stages.a.save_every=5"])
    with pytest.raises(KilledError):
        train(values, QUIET)
    done = two_processes(folder, path)
    assert "resuming at step 35" in done.stderr
    one, two = losses(folder / "one" / "a"), losses(folder / "two" / "a")
    assert len(one) == len(two) == STEPS
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    assert (folder / "one" / "a" / "audit.jsonl").read_text() == (folder / "two" / "a" / "audit.jsonl").read_text()
    alone, spread_out = weights(folder / "one" / "a" / "checkpoint"), weights(folder / "two" / "a" / "checkpoint")
    assert alone.keys() == spread_out.keys()
    assert max(float((alone[name] - spread_out[name]).abs().max()) for name in alone) < 1e-3
    assert not (folder / "two" / "a" / "resume").exists()


def test_only_the_first_process_prints_and_writes(runs):
    _, done = runs
    assert done.stderr.count("stage align: 6 steps of 6 samples") == 4, "once for each of four runs"


@pytest.mark.parametrize("name", ["frozen", "replicas", "eager"])
def test_frozen_modules_replicas_and_eager_sums_learn_the_same(runs, name):
    folder, _ = runs
    for stage in ("align", "instruct"):
        expected, found = losses(folder / "frozen-one" / stage), losses(folder / name / stage)
        assert len(found) == 6
        assert max(abs(a - b) for a, b in zip(expected, found, strict=True)) < 1e-5


def test_bf16_learns_nearly_the_same_and_is_written_in_bf16(runs):
    folder, _ = runs
    expected, found = losses(folder / "bf16-one" / "instruct"), losses(folder / "bf16" / "instruct")
    assert max(abs(a - b) for a, b in zip(expected, found, strict=True)) < 0.05
    written = checkpoint.load(folder / "bf16" / "instruct" / "checkpoint")
    assert {p.dtype for p in written.model.parameters()} == {torch.bfloat16}
    start, end = (weights(folder / "bf16" / stage / "checkpoint") for stage in ("align", "instruct"))
    assert not same(start, end)


def test_packed_sequences_are_distributed_evenly():
    lengths = [100, 90, 60, 50, 40, 30, 20, 10]
    assert distribute(lengths, 100, 1) == balance(lengths, 100)
    for ranks in (2, 3, 4):
        sequences = distribute(lengths, 100, ranks)
        assert len(sequences) % ranks == 0
        assert sorted(i for sequence in sequences for i in sequence) == list(range(8))
        assert max(sum(lengths[i] for i in sequence) for sequence in sequences) <= 100
    assert distribute([50], 100, 4) == [[0]], "one sample cannot be split"
    assert distribute([], 100, 2) == []


def test_replicas_must_divide_the_processes():
    with pytest.raises(RequestError, match=r"sharding\.replicas: 3 does not divide the 8 processes"):
        make_mesh(ShardingRecipe(replicas=3), Processes(0, 8))
