"""The smaller multiple-choice and true-or-false benchmarks: each tool's rule on hand-worked cases."""

import base64
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, llava_lines, scored

from olivine.errors import DataError
from olivine.evaluation.benchmarks.ai2d import AI2D
from olivine.evaluation.benchmarks.mmbench import MMBench
from olivine.evaluation.benchmarks.mmstar import MMStar
from olivine.evaluation.benchmarks.parsing import (
    named_option,
    read_rows,
    read_table,
    unpack_images,
    vlmevalkit_option,
    vlmevalkit_yes_no,
)
from olivine.evaluation.benchmarks.seed import SEEDBench
from olivine.evaluation.benchmarks.vsr import VSR
from olivine.files import write_json, write_json_lines
from olivine.records import Answer, Question
from olivine.wording import with_options

ANIMALS = ["cat", "dog", "wild horse"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("(C) wild horse", "C"),
        ("[a]", "A"),
        ("B: dog", "B"),
        ("I say the answer is C", "C"),
        ("Answer: (b).", "B"),
        ("Dog.", "B"),
        ("A dog", None),  # an article
        ("D", None),  # there are three options
        ("a dog or a cat", None),
        ("", None),
    ],
)
def test_named_option(text: str, letter: str | None) -> None:
    assert named_option(text, ANIMALS) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is B", "B"),
        ("(B), of course", "B"),
        ("B or C", None),
        ("b", None),
        ("A B C", None),
        ("B is what I would say it is", None),  # more than three words stand after the letter
        ("B is what I say", None),
        ("B would I say", "B"),
        ("It is a Dog", "B"),
        ("cat and dog", None),
        ("a wild horse that runs over the hills", None),  # more than twice as long as all options together
        ("Cannot determine the answer, maybe B", None),
        ("Z dog", None),
    ],
)
def test_vlmevalkit_option(text: str, letter: str | None) -> None:
    assert vlmevalkit_option(text, dict(zip("ABC", ANIMALS, strict=True))) == letter


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("YES!", "yes"),
        ("It is no.", "no"),
        ("yes, no", None),
        ("yes/no", None),  # the mark touches no space, so it becomes one
        ("no-one", "no"),
        ("no-one - I think", None),  # the mark touches a space elsewhere, so it is deleted everywhere
        ("1,000 times yes-no", None),  # a digit, a comma and a digit delete every mark
        ("yes.no", None),
        ("yes 1.5", "yes"),
        ("", None),
    ],
)
def test_vlmevalkit_yes_no(text: str, said: str | None) -> None:
    assert vlmevalkit_yes_no(text) == said


def test_file_formats_are_recognised_by_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text, content in (
        ('{"question_id": 1, "text": "a"}', [{"question_id": 1, "text": "a"}]),
        ('{"a": 1}\n\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"results": {"1": 0}}', {"results": {"1": 0}}),
        ('{\n "a": 1\n}', {"a": 1}),
        ('[{"a": 1}]', [{"a": 1}]),
    ):
        path.write_text(text)
        assert read_rows(path) == content
    path.write_text('[{"a": 1},')
    with pytest.raises(DataError, match="truncated"):
        read_rows(path)
    with pytest.raises(DataError, match="not found"):
        read_rows(tmp_path / "none")


def test_images_are_read_from_a_table(tmp_path: Path) -> None:
    image = b"\xff\xd8" * 200_000  # beyond csv's default limit for a cell
    table = tmp_path / "t.tsv"
    table.write_text(f"index\timage\n1\t{base64.b64encode(image).decode()}\n1000001\t1\n")
    assert unpack_images(table, tmp_path / "images") == 1
    assert (tmp_path / "images" / "1.jpg").read_bytes() == image
    table.write_text("index\timage\n1\t!!\n")
    with pytest.raises(DataError, match="row 1: the image is not base64"):
        unpack_images(table, tmp_path)
    table.write_text("a\tb\n1\t2\t3\n")
    with pytest.raises(DataError, match="row 1 has more cells"):
        read_table(table, "\t")


# MMBench


def mmbench(folder: Path, *rows: tuple[str, ...]) -> list[Question]:
    header = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split")
    path = folder / "mmbench.tsv"
    path.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n")
    return MMBench().read(path)


def rotated(index: int, answer: str, hint: str = "", category: str = "ocr") -> tuple[str, ...]:
    return (str(index), "Which?", hint, "cat", "dog", "", "", answer, category, "perception", "dev")


def test_circular_needs_every_rotation_and_vanilla_the_first(tmp_path: Path) -> None:
    questions = mmbench(
        tmp_path,
        rotated(1, "A"),
        rotated(1_000_001, "B"),
        rotated(2, "A", category="scene"),
        rotated(1_000_002, "B", category="scene"),
        rotated(3, "A", category="scene"),
    )
    score = scored(MMBench(), questions, ["A", "B", "A", "A", "A"])
    assert score.metrics["accuracy"] == pytest.approx(200 / 3)
    assert score.metrics["vanilla"] == 100
    assert (score.metrics["category/ocr"], score.metrics["category/scene"]) == (100, 50)
    assert score.metrics["l2-category/perception"] == score.metrics["split/dev"] == score.metrics["accuracy"]
    assert [item.cluster for item in score.items] == ["1", "1", "2", "2", "3"]
    assert {question.image for question in questions} == {"1.jpg", "2.jpg", "3.jpg"}


def test_mmbenchs_prompt(tmp_path: Path) -> None:
    hinted, plain = mmbench(tmp_path, rotated(1, "A", "Look."), rotated(2, "A", "nan"))
    assert hinted.prompt == "Look.\n" + plain.prompt
    assert plain.prompt == with_options("Which?", ["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "official", "original"),
    [
        ("B", "B", "B"),
        ("(B)", "B", "B"),
        ("B.", "B", "B"),
        ("it is {B}", "B", None),  # the older rules know no braces
        ("A dog is on the mat", None, "B"),  # an article: the text decides
        ("A dog", "A", "A"),
        ("B) or A) but (B)", None, "B"),  # each kind of marks is counted separately
        ("E", None, None),  # named, but right nowhere
        ("a dog", "B", "B"),
        ("cat or dog", None, None),
    ],
)
def test_mmbenchs_two_parsers(tmp_path: Path, text: str, official: str, original: str) -> None:
    questions = mmbench(tmp_path, rotated(1, "A"), rotated(2, "B"))
    for variant, named in (("official", official), ("original", original)):
        assert corrects(scored(MMBench(), questions, [text, text], variant)) == [named == "A", named == "B"]


def test_mmbenchs_upload_and_llavas_answers_are_read(tmp_path: Path) -> None:
    questions = mmbench(tmp_path, rotated(1, "A"), rotated(1_000_001, "B"))
    (tmp_path / "up.csv").write_text("index,question,prediction\n1,Which?,A\n1000001,Which?,B\n")
    expected = [Answer("1", "A"), Answer("1000001", "B")]
    assert MMBench().read_answers(tmp_path / "up.csv", questions) == expected
    said = llava_lines(tmp_path / "a.jsonl", {"1": "A", "1000001": "B"})
    assert MMBench().read_answers(said, questions) == expected
    score = MMBench().score(questions, expected[:1])
    assert (score.metrics["accuracy"], score.metrics["vanilla"]) == (0, 100)
    assert score.missing == ("1000001",)


def test_a_hidden_answer_cannot_be_scored_and_a_strange_one_not_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1 has no answer"):
        scored(MMBench(), mmbench(tmp_path, rotated(1, "")), ["A"])
    with pytest.raises(DataError, match="answer 'C'; expected one of A, B"):
        mmbench(tmp_path, rotated(1, "C"))


# MMStar


def mmstar(folder: Path, *rows: tuple[str, str, str]) -> list[Question]:
    path = folder / "MMStar.tsv"
    lines = [f"{n}\tWhich? Options: A: cat, B: dog\t{a}\t{c}\t{s}" for n, (a, c, s) in enumerate(rows)]
    path.write_text("\n".join(["index\tquestion\tanswer\tcategory\tl2_category", *lines]) + "\n")
    return MMStar().read(folder)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("B", True),
        ("b: dog", True),
        (" (B)", True),
        ("Option B", True),
        ("The answer is B", True),
        ("Because", True),  # the first character is all that counts
        ("The answer is (B)", False),
        ("It is B", False),
        ("", False),
    ],
)
def test_mmstars_leads(tmp_path: Path, text: str, right: bool) -> None:
    assert corrects(scored(MMStar(), mmstar(tmp_path, ("B", "math", "geometry")), [text])) == [right]


def test_mmstar_is_micro_and_lmms_eval_macro(tmp_path: Path) -> None:
    rows = [("A", "math", "geometry")] * 3 + [("A", "math", "statistics")]
    questions = mmstar(tmp_path, *rows)
    metrics = scored(MMStar(), questions, ["A", "A", "A", "B"]).metrics
    assert (metrics["accuracy"], metrics["category/math"], metrics["l2_category/statistics"]) == (0.75, 0.75, 0)
    assert scored(MMStar(), questions, ["A", "A", "A", "B"], "lmms-eval").metrics["accuracy"] == 0.5
    assert questions[0].prompt.endswith("given choices directly.")
    assert MMStar().read(tmp_path, "original")[0].prompt == "Which? Options: A: cat, B: dog"


# SEED-Bench


def seed(folder: Path) -> list[Question]:
    def row(key: str, kind: str, number: int) -> dict[str, Any]:
        choices = {f"choice_{letter}": letter for letter in "abcd"}
        return {"question_id": key, "question": "Which?", "answer": "B", "data_id": f"d{key}", "data_type": kind} | {
            "question_type_id": number,
            **choices,
        }

    names = {"Scene": 1, "Action": 10}
    rows = [row("1", "image", 1), row("2", "image", 1), row("v1", "video", 10)]
    write_json(folder / "SEED-Bench.json", {"question_type": names, "questions": rows})
    return SEEDBench().read(folder)


def test_seed_requires_the_letter_and_lmms_eval_its_first_character(tmp_path: Path) -> None:
    questions = seed(tmp_path)
    assert [q.image for q in questions][1:] == ["SEED-Bench-image/d2", "SEED-Bench-video-image/v1.png"]
    metrics = scored(SEEDBench(), questions, ["B", "B.", " B"]).metrics
    assert metrics["accuracy"] == pytest.approx(100 / 3)
    assert (metrics["data/image"], metrics["data/video"]) == (50, 0)
    assert (metrics["type/Scene"], metrics["type/Action"]) == (50, 0)
    assert scored(SEEDBench(), questions, ["B", "B.", " B"], "lmms-eval").metrics["accuracy"] == 100


def test_seeds_leaderboard_lines_are_read_and_missing_answers_wrong(tmp_path: Path) -> None:
    questions = seed(tmp_path)
    write_json_lines(tmp_path / "p.jsonl", [{"question_id": key, "prediction": "B"} for key in ("1", "v1")])
    score = SEEDBench().score(questions, SEEDBench().read_answers(tmp_path / "p.jsonl", questions))
    assert corrects(score) == [1, 0, 1]
    assert score.missing == ("2",)


# AI2D


def ai2d(folder: Path, benchmark: AI2D | None = None) -> list[Question]:
    for image in ("1", "2"):
        question = {"abcLabel": False, "answerTexts": ["cat", "dog"], "correctAnswer": 1, "questionId": f"{image}-0"}
        content = {"imageName": f"{image}.png", "questions": {"Which is it?": question}}
        write_json(folder / "questions" / f"{image}.png.json", content)
    return (benchmark or AI2D()).read(folder)


@pytest.mark.parametrize(
    ("text", "letter", "lmms_eval", "vlmevalkit"),
    [("B", 1, 1, 1), ("B. dog", 1, 1, 1), ("(B)", 1, 0, 1), ("b", 1, 0, 0), ("a dog", 0, 0, 1), ("dog", 1, 0, 1)],
)
def test_ai2ds_parsers(tmp_path: Path, text: str, letter: int, lmms_eval: int, vlmevalkit: int) -> None:
    questions = ai2d(tmp_path)
    for variant, right in (("letter", letter), ("lmms-eval", lmms_eval), ("vlmevalkit", vlmevalkit)):
        assert scored(AI2D(), questions, [text, ""], variant).metrics == {"accuracy": 50 * right}


def test_ai2ds_test_diagrams(tmp_path: Path) -> None:
    assert [q.id for q in ai2d(tmp_path)] == ["1-0", "2-0"]
    (tmp_path / "ai2d_test_ids.csv").write_text("2\n7\n")
    assert [(q.id, q.image) for q in ai2d(tmp_path)] == [("2-0", "images/2.png")]
    assert [q.id for q in ai2d(tmp_path, AI2D("val"))] == ["1-0"]
    metrics = scored(AI2D(), ai2d(tmp_path, AI2D("all")), ["B", "A"]).metrics
    assert metrics == {"accuracy": 50, "split/val": 100, "split/test": 0}
    with pytest.raises(DataError, match="no question of the split 'train'"):
        ai2d(tmp_path, AI2D("train"))


# VSR


def vsr(folder: Path) -> list[Question]:
    rows = [(1, "behind"), (0, "behind"), (1, "near"), (1, "beyond")]
    write_json_lines(
        folder / "zeroshot" / "test.jsonl",
        [{"image": f"{n}.jpg", "caption": "It is so.", "label": v, "relation": r} for n, (v, r) in enumerate(rows)],
    )
    return VSR().read(folder)


@pytest.mark.parametrize(
    ("text", "official", "vlmevalkit"),
    [
        ("True", 1, None),
        ("false.", 0, None),
        ("Yes", 1, 1),
        ("No, it is not", 0, 0),
        ("True or False", None, None),
        ("1", 1, None),
        ("untrue", None, None),
        ("", None, None),
    ],
)
def test_vsrs_parsers(tmp_path: Path, text: str, official: int, vlmevalkit: int) -> None:
    questions = vsr(tmp_path)
    for variant, label in (("official", official), ("vlmevalkit", vlmevalkit)):
        expected = [label == 1, label == 0, label == 1, label == 1]
        assert corrects(scored(VSR(), questions, [text] * 4, variant)) == expected


def test_vsrs_predictions_file_and_groups(tmp_path: Path) -> None:
    vsr(tmp_path)
    categories = "Projective: behind, beside\nProximity: near, far from \n"
    (tmp_path / "zeroshot" / "rel_meta_category_dict.txt").write_text(categories)
    questions = VSR().read(tmp_path)
    (tmp_path / "preds.txt").write_text("1\n1\n1\n0\n")
    metrics = VSR().score(questions, VSR().read_answers(tmp_path / "preds.txt", questions)).metrics
    assert metrics == {
        "accuracy": 0.5,
        "relation/behind": 0.5,
        "relation/beyond": 0,
        "relation/near": 1,
        "category/Projective": 0.5,
        "category/Proximity": 1,
    }
    (tmp_path / "preds.txt").write_text("1\n1\n1\n")
    with pytest.raises(DataError, match="3 predictions for 4 statements"):
        VSR().read_answers(tmp_path / "preds.txt", questions)
