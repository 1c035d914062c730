"""Runs that are killed, signalled to stop, out of disk space or damaged: the same bits, and no sample twice."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time

import pytest
import torch
from rich.console import Console
from tiny_runs import QUIET, interrupt_at, make_recipe, same, weights

from olivine.data.batches import SampleOrder
from olivine.distributed import Processes
from olivine.errors import RequestError, RunError, Stopped
from olivine.files import keep_json_lines, read_json, read_json_lines, write_text
from olivine.locks import exclusive_lock
from olivine.recipe import Recipe
from olivine.training.loss_spikes import FEWEST, LossSpikeDetector
from olivine.training.run import train
from olivine.training.training_checkpoints import TrainingCheckpoints, TrainingState, find_corruption

STEPS = 8


def recipe_of(dataset, output, **more):
    stage = {"name": "a", "steps": STEPS, "save_every": 2, "validate_every": 0}
    return make_recipe(dataset, output, stages=[{**stage, **more.pop("stage", {})}], **more)


@pytest.fixture(scope="module")
def expected(dataset, tmp_path_factory):
    return weights(train(recipe_of(dataset, tmp_path_factory.mktemp("whole") / "run"), QUIET))


class KilledError(Exception):
    pass


def die():
    raise KilledError


def killed_run(dataset, output, monkeypatch, step=7, **more):
    """Return the stage folder of a run that died in `step`."""
    interrupt_at(monkeypatch, step, die)
    with pytest.raises(KilledError):
        train(recipe_of(dataset, output, **more), QUIET)
    return output / "a"


def points(folder):
    return sorted(path.name for path in (folder / "resume").iterdir())


def test_sigterm_saves_within_the_step_and_the_run_resumes_to_the_same_bits(dataset, tmp_path, monkeypatch, expected):
    interrupt_at(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"saved at step 5") as stopped:
        train(recipe_of(dataset, tmp_path / "run"), QUIET)
    assert stopped.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert points(tmp_path / "run" / "a") == ["step-00000004", "step-00000005"]
    assert same(expected, weights(train(recipe_of(dataset, tmp_path / "run"), QUIET)))


def test_sigterm_outside_a_stage_stops_at_once(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.training.engine.build", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="Run the same command"):
        train(recipe_of(dataset, tmp_path / "run"), QUIET)


def test_only_the_last_checkpoints_are_kept(dataset, tmp_path, monkeypatch):
    folder = killed_run(dataset, tmp_path / "run", monkeypatch, stage={"save_every": 1, "keep": 3})
    assert points(folder) == ["step-00000005", "step-00000006", "step-00000007"]


def flip_a_bit(point):
    file = next(point.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def cut_short(point):
    file = next(point.glob("*.safetensors"))
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = {
    "is damaged": flip_a_bit,
    "bytes instead of": cut_short,
    "point.json: file not found": lambda point: (point / "point.json").unlink(),
    "point.json: not valid JSON": lambda point: os.truncate(point / "point.json", 30),
    "safetensors is missing": lambda point: next(point.glob("*.safetensors")).unlink(),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_a_message_and_the_one_before_used(
    dataset, tmp_path, monkeypatch, expected, said, caplog
):
    folder = killed_run(dataset, tmp_path / "run", monkeypatch)
    newest = folder / "resume" / "step-00000006"
    assert find_corruption(newest) is None
    DAMAGES[said](newest)
    console = Console(record=True, width=400, file=io.StringIO())
    assert same(expected, weights(train(recipe_of(dataset, tmp_path / "run"), console)))
    printed = console.export_text()
    assert said in caplog.text
    assert "step-00000006: not used" in caplog.text
    assert "resuming at step 4" in printed


def test_a_partially_written_checkpoint_is_removed(dataset, tmp_path, monkeypatch, expected):
    folder = killed_run(dataset, tmp_path / "run", monkeypatch)
    half = folder / "resume" / ".unfinished-00000007"
    half.mkdir()
    (half / "shard.safetensors").write_bytes(b"half")
    interrupt_at(monkeypatch, 7, lambda: half.exists() and pytest.fail("still there"))
    assert same(expected, weights(train(recipe_of(dataset, tmp_path / "run"), QUIET)))


def test_a_full_disk_leaves_the_checkpoint_before(dataset, tmp_path, monkeypatch, expected):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    interrupt_at(monkeypatch, 5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard)))
    try:
        with pytest.raises(RunError, match=r"training checkpoint of step 6 cannot be written \(.*step 4 is intact"):
            train(recipe_of(dataset, tmp_path / "run"), QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert points(tmp_path / "run" / "a")[-1] == "step-00000004"
    assert same(expected, weights(train(recipe_of(dataset, tmp_path / "run"), QUIET)))


def test_a_full_disk_at_the_end_is_reported_and_the_run_resumes(dataset, tmp_path, monkeypatch, expected):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    interrupt_at(monkeypatch, 7, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard)))
    try:
        with pytest.raises(RunError, match="cannot be written"):
            train(recipe_of(dataset, tmp_path / "run"), QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(expected, weights(train(recipe_of(dataset, tmp_path / "run"), QUIET)))


def test_no_sample_is_lost_or_repeated(dataset, tmp_path, monkeypatch):
    folder = killed_run(dataset, tmp_path / "run", monkeypatch, step=5)
    train(recipe_of(dataset, tmp_path / "run"), QUIET)
    sequences = read_json_lines(folder / "audit.jsonl")
    assert [sequence["step"] for sequence in sequences] == list(range(STEPS))
    order = SampleOrder(27, batch=6, epochs=1, steps=STEPS, seed=0, key="a")
    training = [f"s{number}" for number in range(30)]
    held_out = set(training) - {name for sequence in sequences for name in sequence["samples"]}
    assert len(held_out) == 3
    kept = [name for name in training if name not in held_out]
    assert [sequence["samples"] for sequence in sequences] == [
        [kept[i] for _, i in order.at(step)] for step in range(STEPS)
    ]


def test_a_process_killed_outright_resumes_to_the_same_bits(dataset, tmp_path, expected):
    """SIGKILL to a real process, as soon as it has left a training checkpoint behind."""
    recipe = recipe_of(dataset, tmp_path / "run", stage={"save_every": 1})
    write_text(tmp_path / "recipe.yaml", recipe.to_yaml())
    command = [sys.executable, "-m", "olivine", "train", str(tmp_path / "recipe.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "run" / "a").glob("resume/step-*")):
        assert process.poll() is None, "it finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert same(expected, weights(train(recipe, QUIET)))


def test_a_checkpoint_written_in_the_background_is_the_state_when_it_was_requested(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = torch.optim.AdamW([weight])
    state = TrainingState({"w": weight}, optimizer)
    made = TrainingCheckpoints(tmp_path, keep=1, processes=Processes(), background=True)
    made.save(3, state)
    with torch.no_grad():
        weight.zero_()
    made.finish()
    assert made.load(state) == 3
    assert torch.equal(weight.detach(), torch.arange(6.0).view(2, 3))
    other = torch.nn.Parameter(torch.zeros(4))
    with pytest.raises(RunError, match="does not fit this model"):
        made.load(TrainingState({"v": other}, torch.optim.AdamW([other])))
    made.clear()
    assert not (tmp_path / "resume").exists()


def test_a_spike_stops_before_the_step_and_may_be_accepted(dataset, tmp_path, monkeypatch):
    """Only the limit differs between the two commands."""
    seen = []

    def problem(self, loss, norm):
        seen.append(loss)
        return original(self, loss * 100 if len(seen) == 6 else loss, norm)

    original = LossSpikeDetector.problem
    monkeypatch.setattr(LossSpikeDetector, "problem", problem)
    monkeypatch.setattr("olivine.training.loss_spikes.FEWEST", 3)
    strict = recipe_of(dataset, tmp_path / "run", optimizer={"spike": 20.0})
    with pytest.raises(RunError, match=r"times the running median .*bad_batch\.json.*optimizer\.spike"):
        train(strict, QUIET)
    bad = read_json(tmp_path / "run" / "a" / "bad_batch.json")
    assert bad["step"] == 5
    assert len(bad["samples"]) == 6
    logged = read_json_lines(tmp_path / "run" / "a" / "metrics.jsonl")
    assert [sequence["step"] for sequence in logged] == list(range(5))
    lenient = recipe_of(dataset, tmp_path / "run", optimizer={"spike": 1e9})
    train(lenient, QUIET)


def test_spikes_by_hand():
    watch = LossSpikeDetector(3.0, [1.0] * (FEWEST - 1))
    assert watch.problem(50.0, 1.0) is None, "too few losses are known"
    assert "3.1 times the running median 1" in watch.problem(3.1, 1.0)
    assert watch.problem(2.9, 1.0) is None
    assert watch.problem(float("nan"), 1.0) == "loss nan, gradient norm 1.0"
    assert watch.problem(1.0, float("inf")) == "loss 1.0, gradient norm inf"
    off = LossSpikeDetector(None, [1.0] * 64)
    assert off.problem(1e9, 1.0) is None


def test_logs_are_truncated_to_the_step_that_is_resumed(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"st')
    keep_json_lines(log, lambda sequence: sequence["step"] < 5)
    assert log.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
    keep_json_lines(log, lambda sequence: sequence["step"] < 1)
    assert log.read_text() == '{"step": 0}\n'


def test_shards_train_like_the_same_samples_in_json(dataset, tmp_path, expected):
    """The same samples and images in two .tar files, held-out ones included."""
    sequences = read_json(dataset)
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for position, sequence in enumerate(sequences[number * 15 : number * 15 + 15]):
                members = [("json", json.dumps({k: v for k, v in sequence.items() if k != "image"}).encode())]
                if "image" in sequence:
                    members.append(("png", (dataset.parent / "images" / sequence["image"]).read_bytes()))
                for suffix, content in members:
                    info = tarfile.TarInfo(f"{position:03d}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    values = recipe_of(dataset, tmp_path / "run").model_dump(by_alias=True)
    source = {"format": "webdataset", "json": tmp_path, "turns": "independent"}
    # The tokenizer is trained on the texts of every source; the same texts give the same tokenizer.
    recipe = Recipe.model_validate({**values, "data": {"all": source}})
    found = weights(train(recipe, QUIET))
    # Here each sample has its own copy of a shared image, so matrix products have other sizes.
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-4


def test_a_stage_stopped_in_its_last_step_reports_all_of_it(dataset, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, STEPS - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        train(recipe_of(dataset, tmp_path), QUIET)
    train(recipe_of(dataset, tmp_path), QUIET)
    result = read_json(tmp_path / "a" / "result.json")
    sequences = [sequence for sequence in read_json_lines(tmp_path / "a" / "metrics.jsonl") if "loss" in sequence]
    assert result["loss"] == sequences[-1]["loss"]
    assert result["steps"] == len(sequences) == STEPS
    assert result["seconds"] == pytest.approx(
        sum(sequence["seconds"] + sequence["waited"] for sequence in sequences), abs=0.06
    )


def test_skipped_samples_are_counted_once_over_runs_and_epochs(tmp_path, monkeypatch):
    from olivine.testing import write_dataset

    dataset = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "images" / "0.png").write_bytes(b"no image")
    broken = sum(sequence.get("image") == "0.png" for sequence in json.loads(dataset.read_text()))

    def lenient(output):
        recipe = recipe_of(dataset, output, stage={"steps": 16, "held_out": 0})
        source = recipe.data["all"].model_copy(update={"on_error": "skip"})
        return recipe.model_copy(update={"data": {"all": source}})

    interrupt_at(monkeypatch, 11, die)
    with pytest.raises(KilledError):
        train(lenient(tmp_path / "run"), QUIET)
    train(lenient(tmp_path / "run"), QUIET)
    assert (
        read_json(tmp_path / "run" / "a" / "result.json")["skipped"] == f"{broken} skipped ({broken} unreadable image)"
    )


def test_a_run_in_use_by_another_process_is_refused(dataset, tmp_path):
    with exclusive_lock(tmp_path), pytest.raises(RequestError, match="another process is using it"):
        train(recipe_of(dataset, tmp_path), QUIET)
