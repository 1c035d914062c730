"""Cached answers belong to one request: images, processor, template, tokenizer, weights of any format, questions."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from olivine.contents import ContentIndex
from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks import get
from olivine.evaluation.engine import AnsweringEngine
from olivine.evaluation.request import INDEX, image_contents
from olivine.evaluation.run import Evaluation, evaluate, read_questions
from olivine.files import read_json, read_json_lines, write_json
from olivine.model import checkpoint
from olivine.records import Answer
from olivine.testing import tiny_vlm, write_images

COUNT = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    vlm = tiny_vlm()
    checkpoint.save(vlm, folder / "checkpoint")
    write_images(folder / "images", COUNT)
    rows = [{"question_id": n, "image": f"{n}.png", "text": f"what? {n}", "answer": "x"} for n in range(COUNT)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return vlm, folder


@pytest.fixture
def workspace(made, tmp_path, monkeypatch):
    """A copy of everything, and a list of what the engine was asked."""
    vlm, folder = made
    shutil.copytree(folder, tmp_path / "made")
    asked = []

    def answer(self, questions, images):
        for question in questions:
            asked.append(question.id)
            yield Answer(question.id, "x")

    monkeypatch.setattr(AnsweringEngine, "answer", answer)

    def run(**more):
        asked.clear()
        data = tmp_path / "made"
        requested = Evaluation(
            get("exact-match"), data / "questions.jsonl", data / "images", tmp_path / "out", "the model", **more
        )
        evaluate(vlm, data / "checkpoint", requested, lambda *_: None)
        return list(asked)

    return tmp_path / "made", run


def other_image(folder):
    Image.new("RGB", (20, 20), "orange").save(folder / "images" / "3.png")


def swapped_images(folder):
    one, two = (folder / "images" / f"{n}.png" for n in (0, 1))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)


def edit(name, old, new):
    def change(folder):
        path = folder / "checkpoint" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def other_bin_weights(folder):
    (folder / "checkpoint" / "pytorch_model.bin").write_bytes(b"others")


def other_question(folder):
    path = folder / "questions.jsonl"
    path.write_text(path.read_text().replace("what? 2", "what else? 2"))


CHANGES = {
    "an image": (other_image, "images' contents"),
    "two images swapped": (swapped_images, "images' contents"),
    "the image statistics": (edit("olivine.json", '"mean": [', '"mean": [ '), "checkpoint's files"),
    "the processor": (edit("processor_config.json", "{", "{ "), "checkpoint's files"),
    "the tokenizer": (edit("tokenizer.json", "{", "{ "), "checkpoint's files"),
    "the chat template": (edit("chat_template.jinja", "{", "{ "), "checkpoint's files"),
    "generation settings": (edit("generation_config.json", "{", "{ "), "checkpoint's files"),
    "the configuration": (edit("config.json", "{", "{ "), "checkpoint's files"),
    "weights that are no safetensors": (other_bin_weights, "checkpoint's files"),
    "a question's text": (other_question, "the questions"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_answers_to_another_request_are_neither_used_nor_deleted(workspace, tmp_path, what):
    folder, run = workspace
    assert len(run()) == COUNT
    assert run() == []
    kept = (tmp_path / "out" / "answers.jsonl").read_bytes()
    change, named = CHANGES[what]
    change(folder)
    with pytest.raises(RequestError, match=named):
        run()
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == kept
    assert (tmp_path / "out" / "scores.json").is_file()
    assert len(run(replace=True)) == COUNT
    assert run() == []


def test_the_same_contents_under_another_path_or_name_are_the_same_request(workspace):
    folder, run = workspace
    run()
    for file in (folder / "images").iterdir():
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    assert run() == []


def test_answers_without_a_request_are_not_deleted(workspace, tmp_path):
    _, run = workspace
    run()
    (tmp_path / "out" / "request.json").unlink()
    with pytest.raises(RequestError, match="holds answers of the model, given"):
        run()


@pytest.mark.parametrize("content", ["", "[]", '{"benchmark": "exact-match"}', "{"])
def test_a_request_of_another_version_or_a_damaged_one_is_reported(workspace, tmp_path, content):
    _, run = workspace
    run()
    (tmp_path / "out" / "request.json").write_text(content)
    with pytest.raises(RequestError, match="another version"):
        run()
    assert len(read_json_lines(tmp_path / "out" / "answers.jsonl")) == COUNT


def test_the_earlier_model_is_named_too(workspace, tmp_path):
    _, run = workspace
    run()
    path = tmp_path / "out" / "request.json"
    write_json(path, {**read_json(path), "model_id": "runs/one", "checkpoint": {}})
    with pytest.raises(
        RequestError, match=r"answers of runs/one, given to a different request than this one \(of the model"
    ):
        run()


def test_images_are_read_once(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.contents.SETTLED", -1.0)
    folder, run = workspace
    run()
    index = ContentIndex(tmp_path / "out" / INDEX)
    names = [f"{n}.png" for n in range(COUNT)]
    assert len(image_contents(folder / "images", names, index)) == COUNT
    assert index.read_bytes == 0


def test_a_missing_image_has_no_content(tmp_path):
    assert image_contents(tmp_path, ["gone.png"], ContentIndex()) == {"gone.png": "unreadable"}


def test_no_question_is_no_score(tmp_path):
    (tmp_path / "questions.jsonl").write_text("")
    with pytest.raises(RequestError, match="no question"):
        read_questions(get("exact-match"), tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("text", value) for value in (7, None, ["a"], {"a": 1}, "\ud800")],
        *[("image", value) for value in (5, ["a.png"], True)],
        *[("answer", value) for value in (3, None, {"a": 1}, [1])],
        *[("question_id", value) for value in (None, 1.5, [1], True)],
        ("category", 4),
    ],
    ids=repr,
)
def test_values_of_the_wrong_type_are_named_with_file_and_position(tmp_path, key, value):
    good = {"question_id": "1", "image": "0.png", "text": "q", "answer": "a", "category": "c"}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "question_id": "2", key: value}) + "\n")
    with pytest.raises(DataError, match=rf"questions\.jsonl: question 2.*{key}"):
        read_questions(get("exact-match"), tmp_path)


@pytest.mark.parametrize("number", [7, None, [1], {"a": 1}])
@pytest.mark.parametrize("key", ["text", "image", "question_id", "label"])
@pytest.mark.parametrize("benchmark", ["pope", "exact-match"])
def test_no_reader_turns_a_wrong_type_into_a_stack_trace(tmp_path, benchmark, key, number):
    row = {"question_id": 1, "image": "0.png", "text": "Is there a dog in the image?", "label": "yes", "answer": "yes"}
    path = tmp_path / ("coco_pope_random.json" if benchmark == "pope" else "questions.jsonl")
    path.write_text(json.dumps({**row, key: number}) + "\n")
    try:
        assert read_questions(get(benchmark), path)
    except (DataError, RequestError) as error:
        said = str(error)
    else:
        said = str(path)
    assert str(path) in said


@pytest.mark.skipif(os.name == "nt", reason="locks of one system")
def test_two_evaluations_on_one_folder_are_refused_at_the_start(run, made, tmp_path, monkeypatch):
    from olivine.locks import exclusive_lock

    _, folder = made
    monkeypatch.setattr("olivine.model.checkpoint.load", lambda *_: pytest.fail("loaded a model first"))
    command = ("evaluate", folder / "checkpoint", "--benchmarks", "exact-match", "--data", folder)
    with exclusive_lock(tmp_path / "out" / "exact-match"):
        code, _, err = run(*command, "--output", tmp_path / "out")
    assert code == 2
    assert "another process is using it" in err


@pytest.mark.parametrize("option", ["--answers", "--annotations", "--variant"])
def test_a_single_valued_option_may_be_given_once(run, option):
    base = {"--answers": "a", "--annotations": "b", "--variant": "c"}
    code, _, err = run("score", "pope", *[x for pair in base.items() for x in pair], option, "other")
    assert code == 2
    assert f"{option}: given more than once" in err


@pytest.mark.parametrize(
    "command", [("evaluate", "x", "--data", "d", "--data", "e"), ("ablate", "s", "--plan", "--plan")]
)
def test_flags_and_other_commands_too(run, command):
    code, _, err = run(*command)
    assert code == 2
    assert "given more than once" in err


ERRORS = [28, 30, 27, 13]


@pytest.mark.parametrize("number", ERRORS)
def test_a_disk_that_cannot_be_written_is_one_line(run, made, tmp_path, monkeypatch, number):
    def refused(*_args, **_named):
        raise OSError(number, os.strerror(number), "out/answers.jsonl")

    vlm, folder = made
    monkeypatch.setattr("olivine.model.checkpoint.load", lambda *_: vlm)
    monkeypatch.setattr("olivine.evaluation.answer_log.append_json_line", refused)
    command = ("evaluate", folder / "checkpoint", "--benchmarks", "exact-match", "--data", folder)
    code, _, err = run(*command, "--output", tmp_path / "out")
    assert code == 1
    assert "out/answers.jsonl: cannot be written" in err
    assert "resume" in " ".join(err.split())


def test_brackets_and_control_characters_in_categories_do_not_affect_the_terminal(run, made, tmp_path):
    hostile = "[bold]x[/nope]\x1b[31m"
    row = {"question_id": 1, "image": "0.png", "text": "q", "answer": "a", "category": hostile}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "answers.jsonl").write_text(json.dumps({"question_id": 1, "text": "a"}) + "\n")
    arguments = ("score", "exact-match", "--annotations", tmp_path, "--answers", tmp_path / "answers.jsonl")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "\x1b" not in out + err
    assert "accuracy/[bold]x[/nope]\\x1b[31m" in out
    code, out, err = run(*arguments, "--json")
    assert json.loads(out)["metrics"][f"accuracy/{hostile}"] == 100.0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")  # noqa: PTH110
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_stdout_on_a_full_device_is_one_line(tmp_path, more):
    row = {"question_id": 1, "image": "0.png", "text": "q", "answer": "a"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "answers.jsonl").write_text(json.dumps({"question_id": 1, "text": "a"}) + "\n")
    command = [sys.executable, "-m", "olivine", "score", "exact-match", "--annotations", str(tmp_path)]
    command += ["--answers", str(tmp_path / "answers.jsonl"), *more]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "stdout cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr
