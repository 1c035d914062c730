"""Signals: every resumable command saves its state, says how to resume, and exits with 75."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from olivine import cli
from olivine.errors import Stopped
from olivine.evaluation import run as evaluate_module
from olivine.files import read_json_lines
from olivine.stop import SIGNALS, StopSignal
from olivine.testing import tiny_model_recipe, write_dataset
from olivine.training import stage as stage_module

ALL = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])


@pytest.fixture
def recipe(tmp_path):
    dataset = write_dataset(tmp_path / "data", items=20)
    stage = {"data": "all", "batch": 4, "lr": 1e-3, "steps": 6, "save_every": 0, "validate_every": 0, "held_out": 0}
    values = {
        "name": "tiny",
        "model": tiny_model_recipe().model_dump(by_alias=True, mode="json"),
        "data": {"all": {"json": str(dataset), "images": str(dataset.parent / "images")}},
        "stages": [{**stage, "name": "instruct", "train": ["connector", "language"]}],
        "optimizer": {"precision": "fp32"},
        "evaluate": ["exact-match"],
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def signal_in_step(monkeypatch, step, number):
    original = stage_module.Stage._step
    sent = []

    def taken(self, at, batch, waited, log):
        if at == step and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return original(self, at, batch, waited, log)

    monkeypatch.setattr(stage_module.Stage, "_step", taken)


def write_questions(folder, count=12):
    rows = [
        f'{{"question_id": {n}, "image": "{n % 4}.png", "text": "what? {n}", "answer": "?"}}\n' for n in range(count)
    ]
    (folder / "questions.jsonl").write_text("".join(rows))
    return folder / "questions.jsonl"


@ALL
def test_training_saves_its_running_step_and_ends_with_75(run, recipe, tmp_path, monkeypatch, number):
    signal_in_step(monkeypatch, 2, number)
    before = signal.getsignal(number)
    code, _, err = run("train", recipe)
    assert code == 75
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    last = err.strip().splitlines()[-1]
    assert last == f"stopped by {name}; stage instruct is saved at step 3. Run the same command to resume."
    assert [p.name for p in (tmp_path / "run" / "instruct" / "resume").iterdir()] == ["step-00000003"]
    assert signal.getsignal(number) is before
    code, _, err = run("train", recipe)
    assert code == 0, err
    assert "resuming at step 3" in err
    assert [row["step"] for row in read_json_lines(tmp_path / "run" / "instruct" / "audit.jsonl")] == list(range(6))


@ALL
def test_evaluation_keeps_its_answers_and_ends_with_75(run, recipe, tmp_path, monkeypatch, number):
    assert run("train", recipe)[0] == 0
    questions = write_questions(tmp_path)
    asked = ("evaluate", tmp_path / "run", "--data", questions, "--images", tmp_path / "data" / "images")
    original = evaluate_module.AnswerLog.append
    given = []

    def append(self, answer, processes):
        original(self, answer, processes)
        given.append(answer.question_id)
        if len(given) == 5:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(evaluate_module.AnswerLog, "append", append)
    code, _, err = run(*asked)
    assert code == 75
    assert "5 answers are kept in" in err
    assert "Run the same command to resume." in err
    folder = tmp_path / "run" / "instruct" / "evaluation" / "exact-match"
    assert len(read_json_lines(folder / "answers.jsonl")) == 5
    assert not (folder / "scores.json").exists()
    code, _, err = run(*asked)
    assert code == 0, err
    assert len(given) == 12, "nothing is asked twice"
    assert (folder / "scores.json").is_file()


def test_a_signal_before_the_start_also_ends_with_75(run, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.recipe.load", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    code, _, err = run("train", recipe)
    assert code == 75
    assert err.strip() == "stopped by SIGTERM. Run the same command to resume."
    assert not (tmp_path / "run").exists()


def test_commands_that_do_not_resume_end_with_130(run, recipe, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("olivine.cost.estimate.estimate", interrupted)
    assert run("plan", recipe)[0] == 130


def test_exit_codes_are_in_the_help(run):
    for command in ("train", "ablate", "demo"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "code 75" in " ".join(out.split()).replace("│ ", "")


def test_a_library_that_catches_every_exception_does_not_swallow_it():
    def careless():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except Exception:
            return "swallowed"
        return "not heard"

    with pytest.raises(Stopped), StopSignal():
        careless()


def test_ignored_signals_stay_ignored():
    """Under `nohup` a run outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop, stop.deferred():
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_handle_no_signals():
    heard = []

    def listen():
        with StopSignal() as stop, stop.deferred():
            heard.append(stop.requested)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [False]


def test_a_signal_that_the_system_lacks_is_skipped():
    assert signal.SIGTERM in SIGNALS
    assert all(hasattr(signal, signal.Signals(number).name) for number in SIGNALS)


HELD = """
import os, signal, sys, time
from olivine.stop import StopSignal
import olivine.stop
olivine.stop.ECHO = 0.2
with StopSignal() as stop, stop.deferred():
    print("ready", flush=True)
    for _ in range(1000):
        time.sleep(0.01)
"""


def held_process():
    process = subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_second_ctrl_c_ends_at_once():
    with held_process() as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT


def test_an_echo_of_the_first_ctrl_c_and_other_signals_end_nothing():
    """torchrun forwards a signal that the terminal has already sent to all processes."""
    with held_process() as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None
        process.kill()


def test_the_command_itself_ends_with_75(recipe, tmp_path):
    """In a separate process, signalled as soon as it trains."""
    command = [sys.executable, "-m", "olivine", "train", str(recipe), "stages.instruct.steps=100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        log = tmp_path / "run" / "instruct" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (log.is_file() and log.stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    rows = read_json_lines(log)
    assert f"stopped by SIGUSR1; stage instruct is saved at step {len(rows):,}." in err
    assert {"train", "evaluate", "ablate", "demo"} == cli._RESUMABLE
