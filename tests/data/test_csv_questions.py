"""A table of questions becomes training data and held-out questions by image, or its bad lines are named."""

import json
import shutil

import pytest

from olivine.data.csv_questions import read_rows
from olivine.data.sources import Skipped, read_samples
from olivine.evaluation import benchmarks
from olivine.recipe import DataRecipe
from olivine.testing import write_images


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path / "images", 12)
    return tmp_path / "images"


def table(tmp_path, *lines, header="image,question,answer", encoding="utf-8"):
    path = tmp_path / "own.csv"
    path.write_bytes("\n".join([header, *lines, ""]).encode(encoding))
    return path


def whole(tmp_path):
    return table(tmp_path, *(f'{n}.png,"what, {word}?",answer {n}' for n in range(12) for word in ("one", "two")))


def written(run, path, images, target, *more):
    code, _, err = run("data", "csv", path, "--images", images, *more, target)
    assert code == 0, err
    training = json.loads((target / "train.json").read_text())
    held = target / "questions.jsonl"
    return training, [json.loads(line) for line in held.read_text().splitlines()] if held.exists() else []


def test_every_question_is_written_once_and_no_image_is_on_both_sides(run, tmp_path, images):
    training, held = written(run, whole(tmp_path), images, tmp_path / "out", "--held-out", 5)
    assert len(held) == 6  # whole images
    assert len(training) == 9
    turns = [turn["value"] for item in training for turn in item["conversations"]]
    assert len(turns) == 2 * 18
    assert turns[0].startswith("<image>\nwhat, ")
    assert {item["image"] for item in training}.isdisjoint(question["image"] for question in held)


def test_training_and_evaluation_read_what_is_written(run, tmp_path, images):
    written(run, whole(tmp_path), images, tmp_path / "out", "--held-out", 4)
    source = DataRecipe.model_validate({"json": tmp_path / "out" / "train.json", "images": images})
    assert len(read_samples(source, Skipped())) == 10
    questions = benchmarks.get("exact-match").read(tmp_path / "out")
    assert [question.references for question in questions if question.image == questions[0].image] == [
        questions[0].references
    ] * 2


def test_the_draw_follows_the_seed_and_the_images_alone(run, tmp_path, images):
    def held(name, path, seed):
        return {q["image"] for q in written(run, path, images, tmp_path / name, "--held-out", 6, "--seed", seed)[1]}

    first = held("a", whole(tmp_path), 0)
    lines = whole(tmp_path).read_text().splitlines()
    assert held("b", table(tmp_path, *reversed(lines[1:])), 0) == first
    assert any(held(str(seed), whole(tmp_path), seed) != first for seed in range(1, 5))


def test_copies_of_an_image_stay_on_one_side(run, tmp_path, images):
    for number in range(6):
        shutil.copyfile(images / "0.png", images / f"copy{number}.png")
    names = ["0.png", *(f"copy{n}.png" for n in range(6)), *(f"{n}.png" for n in range(1, 6))]
    path = table(tmp_path, *(f"{name},question {n}?,yes" for n, name in enumerate(names)))
    copies = {"0.png", *(f"copy{n}.png" for n in range(6))}
    for seed in range(4):
        _, held = written(run, path, images, tmp_path / f"out{seed}", "--held-out", 2, "--seed", seed)
        assert {question["image"] for question in held} & copies in (set(), copies)


def test_nothing_held_out(run, tmp_path, images):
    training, held = written(run, whole(tmp_path), images, tmp_path / "out", "--held-out", 0)
    assert (len(training), held) == (12, [])


def test_bytes_that_spreadsheets_write_are_understood(tmp_path, images):
    path = table(tmp_path, '0.png,"a ""quoted"" word, é?","two\nlines"', encoding="utf-8-sig")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (row,) = read_rows(path, images)
    assert (row.question, row.answer.splitlines()) == ('a "quoted" word, é?', ["two", "lines"])


BAD_LINES = {
    "outside": ("../0.png,what?,yes", "leaves the root"),
    "absolute": ("/etc/passwd,what?,yes", "leaves the root"),
    "not found": ("nowhere.png,what?,yes", "'nowhere.png' not found"),
    "no image": ("text.png,what?,yes", "text.png"),
    "empty answer": ("0.png,what?, ", "answer: empty"),
    "too few": ("0.png,what?", "answer: empty"),
    "too many": ("0.png,what, now?,yes", "more fields than columns"),
    "a mark": ("0.png,<image> what?,yes", "question: contains <image>"),
    "twice": ("0.png,first?,no", "the same question about the same image as in line 2"),
    "a copy": ("copy.png,first?,no", "the same question about the same image as in line 2"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_and_nothing_is_written(run, tmp_path, images, name):
    line, said = BAD_LINES[name]
    (images / "text.png").write_text("no image")
    shutil.copyfile(images / "0.png", images / "copy.png")
    path = table(tmp_path, "0.png,first?,yes", "1.png,second?,no", line)
    code, _, err = run("data", "csv", path, "--images", images, "--held-out", 1, tmp_path / "out")
    assert code == 2
    message = " ".join(err.split())
    assert "1 of 3 rows are bad" in message
    assert "line 4: " in message
    assert said in message
    assert not (tmp_path / "out").exists()


def test_of_many_bad_lines_the_first_twenty_are_named(run, tmp_path, images):
    path = table(tmp_path, *(f"gone{n}.png,what?,yes" for n in range(30)))
    code, _, err = run("data", "csv", path, "--images", images, "--held-out", 1, tmp_path / "out")
    assert code == 2
    assert err.count("line ") == 20
    assert "and 10 more" in err


REFUSED = {
    "another header": ({"header": "photo,question,answer"}, "expected the columns image, question, answer"),
    "semicolons": ({"header": "image;question;answer"}, "Separate columns with commas"),
    "a further column": ({"header": "image,question,answer,context"}, "'context'"),
    "another encoding": ({"encoding": "latin-1"}, "is not UTF-8"),
    "no rows": ({}, "has no rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_read_is_refused(run, tmp_path, images, name):
    given, said = REFUSED[name]
    path = table(tmp_path, *(["0.png,é?,yes"] if name == "another encoding" else []), **given)
    code, _, err = run("data", "csv", path, "--images", images, "--held-out", 0, tmp_path / "out")
    assert code == 2
    assert said in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_holding_out_everything_is_refused(run, tmp_path, images):
    code, _, err = run("data", "csv", whole(tmp_path), "--images", images, "--held-out", 23, tmp_path / "out")
    assert code == 2
    assert "none would be left to train on" in " ".join(err.split())


def test_nothing_is_overwritten(run, tmp_path, images):
    (tmp_path / "out").mkdir()
    code, _, err = run("data", "csv", whole(tmp_path), "--images", images, "--held-out", 2, tmp_path / "out")
    assert code == 2
    assert "already exists" in err
    assert list((tmp_path / "out").iterdir()) == []
