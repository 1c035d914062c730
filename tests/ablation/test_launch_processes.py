"""Several steps at a time: which may start when, processes that die or are stopped, and threads and GPUs of each."""

import io
import os
import random
import signal
from multiprocessing import active_children
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_launch import AXES, RecordedProgress, outputs, quiet, small

from olivine.ablation import launch_processes
from olivine.ablation.launch import launch_over, launcher
from olivine.ablation.launch_local import launch_here
from olivine.ablation.plan import StageStep
from olivine.ablation.terminal_lines import StepLines
from olivine.errors import RequestError, Stopped


class Listening(RecordedProgress):
    """Progress that also records the lines that steps in other processes log."""

    def __init__(self, on_begin=lambda: None):
        super().__init__()
        self.said = []
        self._on_begin = on_begin

    def begin(self, step):
        super().begin(step)
        self._on_begin()

    def log_line(self, step, text):
        self.said.append((step.key, text))


# Which step may start when


class PretendPool:
    """A few workers that end in any order, some by dying; checks what the launcher must guarantee."""

    def __init__(self, workers, dying, draw):
        self._workers, self._dying, self._draw = workers, dying, draw
        self.running, self.over = [], set()

    def begin(self, ready):
        if len(self.running) == self._workers:
            return None
        step = self._draw.choice(ready)
        assert self.over.issuperset(step.needs)
        self.running.append(step)
        return step

    def outcome(self):
        step = self.running.pop(self._draw.randrange(len(self.running)))
        if step.key in self._dying:
            return step, "it died"
        self.over.add(step.key)
        return step, None


@st.composite
def plans(draw):
    """Draw steps in dependency order, some of them dying, a number of workers and a seed."""
    steps = [
        SimpleNamespace(key=str(n), needs=tuple(str(m) for m in draw(st.sets(st.integers(0, n - 1), max_size=2))))
        if n
        else SimpleNamespace(key="0", needs=())
        for n in range(draw(st.integers(1, 12)))
    ]
    dying = draw(st.sets(st.sampled_from([step.key for step in steps]), max_size=3))
    return steps, dying, draw(st.integers(1, 4)), draw(st.integers(0, 99))


@given(plans())
def test_every_step_starts_once_after_its_dependencies_or_is_reported_as_not_started(drawn):
    steps, dying, workers, seed = drawn
    message = Listening()
    pool = PretendPool(workers, dying, random.Random(seed))
    failures = launch_over(pool, SimpleNamespace(left=lambda: steps), message)
    lost = set(dying)
    for step in steps:
        if lost & set(step.needs):
            lost.add(step.key)
    assert {failure.step.key for failure in failures} == lost
    assert sorted([*message.ended, *message.failed]) == sorted(step.key for step in steps)
    blocked_by = {failure.step.key for failure in failures if not failure.begun}
    assert sorted(message.begun) == sorted({step.key for step in steps} - blocked_by)
    assert all(set(step.needs) & lost for step in steps if step.key in blocked_by)


# In processes


def test_two_at_a_time_give_the_same_bits(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone, beside = small(tmp_path / "one"), small(tmp_path / "two")
    assert launch_here(alone, quiet(), RecordedProgress()) == []
    message = Listening()
    assert launcher("local", jobs=2)(beside, quiet(), message) == []
    assert sorted(message.ended) == sorted(message.begun) == sorted(beside.steps)
    assert outputs(beside.study.directory) == outputs(alone.study.directory)
    talkative = {key for key, text in message.said if "held-out loss" in text}
    assert talkative == {key for key, step in beside.steps.items() if isinstance(step, StageStep)}
    assert active_children() == []


def test_a_process_that_dies_is_replaced_and_its_step_tried_again(tmp_path):
    plan = small(tmp_path)
    killed = []

    def kill():
        if not killed:
            killed.extend(active_children())
            for process in killed:
                process.kill()

    assert launcher("local", jobs=2)(plan, quiet(), Listening(kill)) == []
    assert len(killed) == 2
    assert plan.left() == []


def dies(*_):
    os._exit(7)


def test_a_process_that_dies_again_fails_its_step_and_the_rest_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_processes, "_serve", dies)
    plan = small(tmp_path)
    failures = launcher("local", jobs=2)(plan, quiet(), Listening())
    begun = [failure for failure in failures if failure.begun]
    assert {failure.reason for failure in begun} == {"the worker process died 2 times (exit code 7)"}
    assert len(failures) == len(plan.steps) > len(begun)


def test_a_step_that_raises_is_reported_from_its_process(tmp_path):
    plan = small(tmp_path)
    dead = plan.steps[plan.stages[("yes",), 0][-1]]
    dead.folder.mkdir(parents=True)
    (dead.folder / "metrics.jsonl").mkdir()
    failures = launcher("local", jobs=2)(plan, quiet(), Listening())
    assert {f.step.key for f in failures} == {dead.key} | {k for k, s in plan.steps.items() if s.after == dead.key}
    assert "Error" in failures[0].reason


def test_sigterm_stops_every_process(tmp_path):
    plan = small(tmp_path)
    with pytest.raises(Stopped, match="Run the same command"):
        launcher("local", jobs=2)(plan, quiet(), Listening(lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert active_children() == []
    assert launcher("local", jobs=2)(plan, quiet(), Listening()) == []


def test_no_process_starts_if_no_step_is_left(tmp_path, monkeypatch):
    plan = small(tmp_path)
    monkeypatch.setattr(launch_processes, "_ProcessPool", None)
    monkeypatch.setattr(type(plan), "left", lambda _: [])
    assert launcher("local", jobs=2)(plan, quiet(), Listening()) == []


@pytest.mark.parametrize(("jobs", "threads"), [(3, 2), (9, 1)])
def test_threads_depend_on_the_requested_jobs_and_not_on_the_remaining_steps(tmp_path, monkeypatch, jobs, threads):
    plan = small(tmp_path)
    monkeypatch.setattr(launch_processes, "available_cpus", lambda: 8)
    monkeypatch.setattr(type(plan), "left", lambda self: list(self.steps.values())[:2])
    given = []
    monkeypatch.setattr(launch_processes, "_WorkerProcess", lambda gpu, threads, width: given.append(threads))
    launch_processes._ProcessPool(plan, Listening(), jobs, 80)
    assert given == [threads] * 2


def test_each_process_has_its_gpu(monkeypatch):
    monkeypatch.setattr(launch_processes.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert launch_processes._gpus(3) == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert launch_processes._gpus(2) == ["4", "6"]


def test_ray_takes_no_number_of_jobs():
    with pytest.raises(RequestError, match="resources"):
        launcher("ray", jobs=2)
    with pytest.raises(RequestError, match="--jobs 0"):
        launcher("local", jobs=0)


def test_lines_of_several_steps_name_their_step(tmp_path):
    plan = small(tmp_path)
    first, second = list(plan.steps.values())[:2]
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    lines = StepLines(plan, console)
    lines.begin(first)
    lines.log_line(first, "a table\nof two lines\n")
    lines.begin(second)
    lines.log_line(first, "loss 1")
    lines.end(second, None)
    lines.end(first, None)
    message = [line.split(", about")[0] for line in console.export_text().splitlines()]
    of_first, of_second = message[0], message[3]
    assert of_first.startswith("[1/")
    assert of_second.startswith("[2/")
    assert message == [
        of_first,
        "a table",
        "of two lines",
        of_second,
        of_first,
        "loss 1",
        f"{of_second}: 0 s",
        "    0 s",
    ]


def test_the_command_line_takes_jobs(run, tmp_path):
    from studies import write_study

    study = write_study(tmp_path, axes=AXES)
    code, out, err = run("ablate", study, "--jobs", "2")
    assert code == 0, err
    assert out == ""
    assert "done: " in err.splitlines()[-1]
    assert (tmp_path / "run" / "results.csv").is_file()
