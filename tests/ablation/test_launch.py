"""Plans that are run: all configurations, a second time for free, after a kill, with a dying step, locally, on Ray."""

import errno
import hashlib
import sys
from pathlib import Path

import pytest
from rich.console import Console
from studies import write_study

from olivine.ablation import steps as steps_module
from olivine.ablation.launch import ERROR, launcher
from olivine.ablation.launch_local import launch_here
from olivine.ablation.plan import StageStep, make_plan
from olivine.ablation.step_costs import plan_costs, step_cost, total
from olivine.ablation.study import load_study
from olivine.cost.estimate import estimate, named_device
from olivine.errors import RequestError, Stopped
from olivine.files import write_json
from olivine.registry import offered

#: Two configurations: one that aligns and one that does not.
AXES = {"align": {"yes": {}, "no": {"stages.align.skip": True}}}


def small(folder, **more):
    return make_plan(load_study(write_study(folder, axes=AXES, **more)))


class RecordedProgress:
    """Progress that is recorded."""

    def __init__(self):
        self.begun, self.ended, self.failed = [], [], []

    def begin(self, step):
        self.begun.append(step.key)

    def within(self, done, total):
        assert 0 <= done <= total

    def end(self, step, failure):
        (self.failed if failure else self.ended).append(step.key)


def quiet():
    return Console(quiet=True)


def outputs(directory):
    """Return hashes of the files that the statistics are computed from."""
    names = ("items.jsonl", "answers.jsonl", "model.safetensors")
    files = sorted(f for f in Path(directory).rglob("*") if f.name in names)
    return {str(f.relative_to(directory)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two configurations, run once."""
    path = write_study(tmp_path_factory.mktemp("study"), axes=AXES)
    plan = make_plan(load_study(path))
    message = RecordedProgress()
    assert launch_here(plan, quiet(), message) == []
    return path, plan, message


def test_every_step_is_done_once_and_leaves_its_files(finished):
    _, plan, message = finished
    assert message.begun == message.ended == list(plan.steps)
    for step in plan.steps.values():
        assert step.done
        assert (step.folder / "step.json").is_file()
        if isinstance(step, StageStep):
            assert (step.folder / "metrics.jsonl").is_file()


def test_a_second_run_has_nothing_to_do(finished):
    path, *_ = finished
    again = make_plan(load_study(path))
    assert again.left() == []
    message = RecordedProgress()
    assert launch_here(again, quiet(), message) == []
    assert message.begun == []


def test_a_killed_study_resumes_to_the_same_bits(finished, tmp_path, monkeypatch):
    _, plan, _ = finished
    other = small(tmp_path)
    assert list(other.steps) == list(plan.steps), "steps are identified by content, wherever they lie"

    class KilledError(BaseException):
        pass

    def kill(*_):
        raise KilledError

    for killed in ("train_stage", "train_stage", "evaluate"):
        monkeypatch.setattr(steps_module, killed, kill)
        # One step finishes between kills: the launcher resumes where it was.
        with pytest.raises(KilledError):
            launch_here(other, quiet(), RecordedProgress())
        monkeypatch.undo()
        one = other.left()[0]
        steps_module.Worker(quiet()).run(one, other.steps.get(one.after))
    assert 0 < len(other.left()) < len(other.steps)
    launch_here(other, quiet(), RecordedProgress())
    assert outputs(other.study.directory) == outputs(plan.study.directory)


def test_a_step_equals_the_stage_of_a_whole_run(finished, tmp_path):
    from olivine.training.run import train

    _path, plan, _ = finished
    recipe = plan.study.recipes[("yes",), 0].model_copy(update={"output": tmp_path / "whole"})
    checkpoint = train(recipe, quiet())
    key = plan.stages[("yes",), 0][-1]
    step = plan.steps[key]
    assert (checkpoint / "model.safetensors").read_bytes() == (step.checkpoint / "model.safetensors").read_bytes()


@pytest.fixture
def pretend(monkeypatch):
    """Steps that only leave the files that mark them as done, to test scheduling alone."""

    def train_stage(recipe, stage, after, folder, console, features):
        write_json(folder / "result.json", {})

    def evaluate(vlm, weights, requested, on_answer):
        write_json(requested.folder / "scores.json", {"metrics": {}})

    monkeypatch.setattr(steps_module, "train_stage", train_stage)
    monkeypatch.setattr(steps_module, "evaluate", evaluate)
    monkeypatch.setattr(steps_module.Worker, "_model", lambda self, checkpoint: None)


def test_a_full_disk_fails_its_steps_with_advice_and_the_rest_continues(tmp_path, monkeypatch, pretend):
    plan = small(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(steps_module, "train_stage", full)
    monkeypatch.setattr("olivine.ablation.launch.write_text", full)
    failures = launch_here(plan, quiet(), RecordedProgress())
    assert len(failures) == len(plan.steps)
    begun = [failure for failure in failures if failure.begun]
    assert begun
    assert all("free disk space and run the same command to resume" in failure.reason for failure in begun)


def test_a_step_that_dies_once_is_tried_again(tmp_path, monkeypatch, pretend):
    plan = small(tmp_path)
    real, died = steps_module.train_stage, []

    def flaky(recipe, stage, after, folder, console, features):
        if not died:
            died.append(folder)
            raise RuntimeError("the disk hiccuped")
        return real(recipe, stage, after, folder, console, features)

    monkeypatch.setattr(steps_module, "train_stage", flaky)
    message = RecordedProgress()
    assert launch_here(plan, quiet(), message) == []
    assert died
    assert message.failed == []
    assert not (died[0] / ERROR).exists()


def test_sigterm_ends_the_study_and_not_only_the_step(tmp_path, monkeypatch, pretend):
    plan = small(tmp_path)
    begun = []

    def stopped(recipe, stage, after, folder, console, features):
        begun.append(folder)
        raise Stopped("stopped by SIGTERM; stage a is saved at step 1")

    monkeypatch.setattr(steps_module, "train_stage", stopped)
    with pytest.raises(Stopped):
        launch_here(plan, quiet(), RecordedProgress())
    assert len(begun) == 1
    assert not (begun[0] / ERROR).exists()


def test_a_step_that_dies_twice_is_reported_and_the_rest_continues(tmp_path, monkeypatch, pretend):
    plan = small(tmp_path)
    real = steps_module.train_stage
    dead = plan.stages[("yes",), 0][-1]

    def broken(recipe, stage, after, folder, console, features):
        if folder.name == dead:
            raise ValueError("no good")
        return real(recipe, stage, after, folder, console, features)

    monkeypatch.setattr(steps_module, "train_stage", broken)
    failures = launch_here(plan, quiet(), RecordedProgress())
    assert next((f.step.key, f.begun) for f in failures) == (dead, True)
    assert len(failures) == 3  # the stage and its two evaluations
    assert all("not started" in f.reason for f in failures[1:])
    assert "ValueError: no good" in (plan.steps[dead].folder / ERROR).read_text()
    assert {s.key for s in plan.left()} == {f.step.key for f in failures}


def test_an_unknown_launcher_is_answered_with_the_nearest():
    with pytest.raises(RequestError, match="Did you mean 'local'"):
        launcher("locale")


def test_missing_ray_is_reported(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = small(tmp_path)
    with pytest.raises(RequestError, match="pip install"):
        launcher("ray")(plan, quiet(), RecordedProgress())


@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_bits(finished, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    _, plan, _ = finished
    other = small(tmp_path, resources={"cpus": 1})
    message = RecordedProgress()
    assert launcher("ray")(other, quiet(), message) == []
    assert sorted(message.ended) == sorted(other.steps)
    assert outputs(other.study.directory) == outputs(plan.study.directory)


@pytest.mark.filterwarnings("ignore")
def test_ray_reports_dead_steps_and_continues(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    plan = small(tmp_path)
    dead = plan.steps[plan.stages[("yes",), 0][-1]]
    # The worker finds a file where the step's checkpoint must go.
    dead.folder.mkdir(parents=True)
    (dead.folder / "metrics.jsonl").mkdir()
    failures = launcher("ray")(plan, quiet(), RecordedProgress())
    assert {f.step.key for f in failures} == {dead.key} | {k for k, s in plan.steps.items() if s.after == dead.key}
    assert {s.key for s in plan.left()} == {f.step.key for f in failures}


# Costs


def test_a_stage_costs_what_its_own_plan_says(finished):
    _, plan, _ = finished
    step = next(step for step in plan.steps.values() if isinstance(step, StageStep))
    cost = step_cost(step, named_device("a100"))
    made = estimate(step.recipe.model_copy(update={"stages": (step.stage,)}), "a100").stages[0]
    assert (cost.tokens, cost.operations, cost.memory) == (made.tokens, made.operations, made.peak)
    assert cost.seconds == pytest.approx(3600 * made.hours)


def test_a_plan_knows_its_costs(finished):
    _, plan, _ = finished
    costs = plan_costs(plan, named_device("cpu"))
    assert all(cost is not None and cost.tokens > 0 for cost in costs.values())
    # A blind question has no image to read.
    keys = [plan.evaluations[("yes",), 0, "exact-match", control] for control in (None, "blind")]
    assert costs[keys[0]].tokens > costs[keys[1]].tokens
    assert total(costs.values()).operations == pytest.approx(sum(c.operations for c in costs.values()))
    with pytest.raises(RequestError, match="Did you mean 'h100'"):
        named_device("h10")


def test_a_study_with_unreadable_data_has_no_cost(tmp_path):
    path = write_study(tmp_path)
    plan = make_plan(load_study(path))
    (tmp_path / "data" / "train.json").unlink()
    step = next(s for s in plan.steps.values() if isinstance(s, StageStep))
    assert step_cost(step, named_device("cpu")) is None


def test_a_package_outside_offers_a_launcher(monkeypatch, tmp_path):
    (tmp_path / "elsewhere.py").write_text("def make(jobs):\n    return lambda plan, console, progress: [jobs]\n")
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[olivine.launchers]\nelsewhere = elsewhere:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    offered.cache_clear()
    try:
        assert launcher("elsewhere", jobs=3)(None, None, None) == [3]
    finally:
        offered.cache_clear()
