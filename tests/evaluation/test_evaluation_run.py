"""One evaluation from questions to scores: its files, after a kill, after a failure, with several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from olivine.errors import RequestError, RunError
from olivine.evaluation.benchmarks import get
from olivine.evaluation.engine import AnsweringEngine
from olivine.evaluation.run import Evaluation, evaluate, shares
from olivine.files import read_json, read_json_lines, write_json
from olivine.model import checkpoint
from olivine.model.generate import answer_one
from olivine.records import Question
from olivine.testing import tiny_vlm, write_images

COUNT, IMAGES = 20, 6


def say_nothing(done, total):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A saved model, its questions file (the answer to question 3 is wrong) and images."""
    folder = tmp_path_factory.mktemp("made")
    vlm = tiny_vlm()
    checkpoint.save(vlm, folder / "checkpoint")
    names = write_images(folder / "images", IMAGES)
    rows = []
    for number in range(COUNT):
        image = None if number == 7 else names[number % IMAGES]
        text = f"what is it? {number} é"
        answer = answer_one(vlm, text, folder / "images" / image if image else None, max_new_tokens=10)
        row = {"question_id": number, "image": image, "text": text, "answer": answer, "category": "all"}
        rows.append(row | ({"answer": "something else"} if number == 3 else {}))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return vlm, folder


def evaluation(folder, target, images=None):
    benchmark = get("exact-match")
    benchmark.max_new_tokens = 10
    return Evaluation(
        benchmark, folder / "questions.jsonl", images or folder / "images", target, str(folder / "checkpoint")
    )


@pytest.fixture
def saved(made, tmp_path):
    vlm, folder = made
    return vlm, folder / "checkpoint", evaluation(folder, tmp_path / "out")


@pytest.fixture
def asked(monkeypatch):
    """The ids of all questions given to the engine, call by call."""
    calls = []
    original = AnsweringEngine.answer

    def answer(self, questions, images):
        calls.append([question.id for question in questions])
        return original(self, questions, images)

    monkeypatch.setattr(AnsweringEngine, "answer", answer)
    return calls


def test_files_and_score(saved):
    vlm, weights, requested = saved
    calls = []
    score = evaluate(vlm, weights, requested, lambda done, total: calls.append((done, total)))
    assert score.metrics == {"accuracy": 95.0, "accuracy/all": 95.0}
    items = read_json_lines(requested.folder / "items.jsonl")
    assert [i["question_id"] for i in items] == [str(n) for n in range(COUNT)]
    assert [i["correct"] for i in items] == [float(n != 3) for n in range(COUNT)]
    assert items[0].keys() == {"question_id", "image_id", "cluster", "correct", "state"}
    assert read_json(requested.folder / "scores.json")["metrics"]["accuracy"] == 95.0
    answers = read_json_lines(requested.folder / "answers.jsonl")
    assert [a["question_id"] for a in answers] == [str(n) for n in range(COUNT)]
    assert {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"} <= answers[0].keys()
    assert calls[0] == (0, COUNT)
    assert calls[-1] == (COUNT, COUNT)


class KilledError(Exception):
    pass


def killed_after(count):
    def stop(done, total):
        if done == count:
            raise KilledError

    return stop


@pytest.mark.parametrize("cut", [b'{"question_id": "9", "te', '{"question_id": "9", "text": "é'.encode()[:-1]])
def test_a_killed_evaluation_resumes_and_asks_nothing_twice(saved, asked, cut):
    vlm, weights, requested = saved
    with pytest.raises(KilledError):
        evaluate(vlm, weights, requested, killed_after(7))
    with (requested.folder / "answers.jsonl").open("ab") as file:
        file.write(cut)
    asked.clear()
    assert evaluate(vlm, weights, requested, say_nothing).metrics["accuracy"] == 95.0
    assert len(asked) == 1
    assert len(asked[0]) == COUNT - 7


def test_answers_of_another_model_are_not_resumed(made, saved, tmp_path):
    vlm, weights, requested = saved
    evaluate(vlm, weights, requested, say_nothing)
    other = tiny_vlm(seed=5)
    checkpoint.save(other, tmp_path / "other")
    before = {file.name: file.read_bytes() for file in requested.folder.iterdir()}
    with pytest.raises(RequestError, match="the checkpoint's files") as refused:
        evaluate(other, tmp_path / "other", replace(requested, model_id="other"), killed_after(0))
    for said in (str(weights), "holds answers of", "--output", "--replace"):
        assert said in str(refused.value)
    assert {file.name: file.read_bytes() for file in requested.folder.iterdir()} == before
    requested = replace(requested, replace=True)
    with pytest.raises(KilledError):
        evaluate(other, tmp_path / "other", requested, killed_after(0))
    assert not read_json_lines(requested.folder / "answers.jsonl")
    assert not (requested.folder / "scores.json").exists(), "a score without its answers"
    assert not (requested.folder / "items.jsonl").exists()


def test_failed_answers_are_retried_individually_then_reported_and_never_scored(saved, asked, tmp_path):
    vlm, weights, requested = saved
    broken = evaluation(weights.parent, requested.folder, tmp_path / "images")
    write_images(tmp_path / "images", IMAGES)
    (tmp_path / "images" / "5.png").unlink()
    with pytest.raises(RunError, match="3 of 20 questions could not be answered") as caught:
        evaluate(vlm, weights, broken, say_nothing)
    about = ["5", "11", "17"]
    assert asked[1:] == [[key] for key in about]
    for key in about:
        assert f"question '{key}': image '5.png' not found" in str(caught.value)
    assert not (requested.folder / "scores.json").exists()
    states = {a["question_id"]: a["state"] for a in read_json_lines(requested.folder / "answers.jsonl")}
    assert {key for key, state in states.items() if state == "failed"} == set(about)
    assert len(states) == COUNT

    asked.clear()
    assert evaluate(vlm, weights, requested, say_nothing).metrics["accuracy"] == 95.0
    assert asked == [about]


def test_a_question_that_fails_in_a_batch_may_succeed_alone(saved, asked, monkeypatch):
    vlm, weights, requested = saved
    original = AnsweringEngine._decode

    def decode(self, prompts):
        if len(prompts.last) > 1:
            raise MemoryError("too many at once")
        return original(self, prompts)

    monkeypatch.setattr(AnsweringEngine, "_decode", decode)
    assert evaluate(vlm, weights, requested, say_nothing).metrics["accuracy"] == 95.0
    assert len(asked) == 1 + COUNT - 1  # all in one batch, then each alone, except the one without an image


def test_questions_without_a_text_are_refused_with_the_file_to_give(saved, tmp_path):
    vlm, weights, _ = saved
    human = [{"answer": "red", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
    row = {"question_id": 1, "image_id": 2, "question_type": "what", "answer_type": "other", "answers": human}
    annotations = tmp_path / "v2_mscoco_val2014_annotations.json"
    write_json(annotations, {"data_subtype": "val2014", "annotations": [row]})
    requested = Evaluation(get("vqav2"), annotations, tmp_path, tmp_path / "out", "tiny")
    with pytest.raises(RequestError, match=r"have no text.*v2_OpenEnded_mscoco_val2014_questions\.json.*--questions"):
        evaluate(vlm, weights, requested, say_nothing)
    write_json(tmp_path / "dict.json", {"validation_Art_1": {"question_type": "open", "ground_truth": "red"}})
    requested = Evaluation(get("mmmu"), tmp_path / "dict.json", tmp_path, tmp_path / "out", "tiny")
    with pytest.raises(RequestError, match=r"have no text.*published questions"):
        evaluate(vlm, weights, requested, say_nothing)
    assert not (tmp_path / "out").exists()


def test_shares_keep_images_together_and_are_about_equal():
    questions = [Question(str(n), "?", f"{n % 7}.png" if n % 4 else None, "u") for n in range(100)]
    for count in (1, 2, 3, 8):
        parts = shares(questions, count)
        assert Counter(q.id for part in parts for q in part) == Counter(q.id for q in questions)
        for image in {q.image for q in questions} - {None}:
            assert sum(any(q.image == image for q in part) for part in parts) == 1
        assert max(map(len, parts)) - min(map(len, parts)) <= 100 // 7 + 1


# Several processes

KILLED = """
import os, signal, sys
from pathlib import Path
from olivine.distributed import init_distributed
from olivine.evaluation.run import evaluate
from olivine.model.checkpoint import load
sys.path.insert(0, {tests!r})
from test_evaluation_run import evaluation

def die(done, total):
    if os.environ["RANK"] == "1" and done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path({folder!r})
with init_distributed() as processes:
    evaluate(load(folder / "checkpoint"), folder / "checkpoint", evaluation(folder, Path({target!r})), die, processes)
"""


def torchrun(count, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "no_proxy": "*"}
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def killed(made, tmp_path_factory):
    """The folder of an evaluation by two processes of which one was killed after three answers."""
    _, folder = made
    target = tmp_path_factory.mktemp("killed") / "out"
    script = target.parent / "script.py"
    script.write_text(KILLED.format(tests=os.path.dirname(__file__), folder=str(folder), target=str(target)))  # noqa: PTH120
    done = torchrun(2, script)
    assert done.returncode == 1, done.stderr
    assert len(read_json_lines(target / "answers.rank1.jsonl")) == 3
    assert f"exitcode  : -{int(signal.SIGKILL)}" in done.stderr
    return target


@pytest.fixture
def whole(saved):
    """The files of the same evaluation by one process that was never killed."""
    vlm, weights, requested = saved
    evaluate(vlm, weights, requested, say_nothing)
    return contents(requested.folder)


def test_after_a_kill_under_torchrun_one_process_resumes_to_the_same_bytes(made, killed, whole, asked, tmp_path):
    vlm, folder = made
    shutil.copytree(killed, tmp_path / "again")
    answered = sum(len(read_json_lines(file)) for file in killed.glob("answers*.jsonl"))
    evaluate(vlm, folder / "checkpoint", evaluation(folder, tmp_path / "again"), say_nothing)
    assert len(asked[-1]) == COUNT - answered
    assert contents(tmp_path / "again") == whole


def test_two_processes_give_the_bytes_of_one(made, whole, tmp_path):
    _, folder = made
    script = tmp_path / "script.py"
    script.write_text(
        KILLED.format(tests=os.path.dirname(__file__), folder=str(folder), target=str(tmp_path / "two")).replace(  # noqa: PTH120
            "done == 3", "False"
        )
    )
    done = torchrun(2, script)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "two") == whole


def test_a_failure_in_one_process_ends_all_and_is_reported_once(made, tmp_path):
    _, folder = made
    write_images(tmp_path / "images", IMAGES)
    (tmp_path / "images" / "1.png").write_bytes(b"broken")
    data = ("--benchmarks", "exact-match", "--data", folder / "questions.jsonl", "--images", tmp_path / "images")
    done = torchrun(
        2, "-m", "olivine", "evaluate", folder / "checkpoint", *data, "--output", tmp_path / "out", "--json"
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("error: 3 of 20 questions could not be answered") == 1
    assert "question '13': image" in done.stderr
    answers = read_json_lines(tmp_path / "out" / "exact-match" / "answers.jsonl")
    assert [a["question_id"] for a in answers] == [str(n) for n in range(COUNT)]
    assert sum(a["state"] == "failed" for a in answers) == 3
