"""TextVQA: the m4c soft score, the three prompts, and how LLaVA's answers find their questions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, llava_lines, scored

from olivine.errors import DataError
from olivine.evaluation.benchmarks.textvqa import TextVQA
from olivine.files import write_json, write_json_lines
from olivine.records import Answer, Question

SHORT = "\nAnswer the question using a single word or phrase."
REDS = ["red"] * 10


def row(number: int, question: str = "what is the Brand?", image: str = "003a", **more: Any) -> dict[str, Any]:
    return {"question_id": number, "image_id": image, "question": question, "answers": REDS} | more


def write(folder: Path, *rows: Mapping[str, Any]) -> Path:
    path = folder / "TextVQA_0.5.1_val.json"
    write_json(path, {"dataset_name": "textvqa", "data": list(rows)})
    return path


def rosetta(folder: Path) -> Path:
    path = folder / "TextVQA_Rosetta_OCR_v0.2_val.json"
    write_json(path, {"data": [{"image_id": "003a", "ocr_tokens": ["NOKIA", "5"]}]})
    return path


def read(folder: Path, *rows: Mapping[str, Any]) -> list[Question]:
    return TextVQA().read(write(folder, *rows))


def test_hints_are_llavas_default_if_there_are_any(tmp_path: Path) -> None:
    path = write(tmp_path, row(1), row(2, image="9"))
    rosetta(tmp_path)
    hinted, bare = TextVQA().read(path)
    assert hinted.prompt == f"what is the Brand?\nReference OCR token: NOKIA, 5{SHORT}"
    assert bare.prompt == f"what is the Brand?\nReference OCR token: {SHORT}"
    assert hinted.image == "003a.jpg"
    assert hinted.cluster == "003a"


def test_images_are_found_in_textvqas_layout(tmp_path: Path) -> None:
    path = write(tmp_path, row(1))
    assert TextVQA().images(path) == tmp_path
    (tmp_path / "train_images").mkdir()
    assert TextVQA().images(path) == TextVQA().images(tmp_path) == tmp_path / "train_images"


def test_hints_are_read_from_llavas_question_file(tmp_path: Path) -> None:
    path = write(tmp_path, row(1))
    ocr = tmp_path / "llava.jsonl"
    write_json_lines(ocr, [{"question_id": "003a", "text": f"what?\nReference OCR token: A, B{SHORT}"}])
    assert TextVQA(ocr).read(path)[0].prompt == f"what is the Brand?\nReference OCR token: A, B{SHORT}"


def test_other_prompts(tmp_path: Path) -> None:
    path = write(tmp_path, row(1))
    with pytest.raises(DataError, match="no OCR tokens"):
        TextVQA().read(path, "llava-1.5")
    rosetta(tmp_path)
    assert TextVQA().read(path, "no-ocr")[0].prompt == f"what is the Brand?{SHORT}"
    assert TextVQA().read(tmp_path, "lmms-eval")[0].prompt == f"What is the brand?{SHORT}"


def test_the_score_says_whether_there_were_hints(tmp_path: Path) -> None:
    path = write(tmp_path, row(1))
    assert scored(TextVQA(), TextVQA().read(path), ["red"]).metrics == {
        "accuracy": 100.0,
        "accuracy/without-ocr": 100.0,
    }
    rosetta(tmp_path)
    assert "accuracy/with-ocr" in scored(TextVQA(), TextVQA().read(path), ["red"]).metrics


@pytest.mark.parametrize(
    ("said", "humans", "correct"),
    [
        ("Red.", REDS, 1.0),  # normalised even where all ten are identical
        ("red", ["red"] + ["blue"] * 9, 0.3),
        ("red", ["Red", "RED", *["blue"] * 8], 0.6),
        ("red", ["the red"] * 3 + ["blue"] * 7, 0.9),
        ("red", ["red"] * 4 + ["blue"] * 6, 1.0),
        ("green", REDS, 0.0),
        ("joes", ["joe's"] * 10, 0.0),
        ("joe 's", ["joe's"] * 10, 1.0),  # both become joe, space, 's
        ("1,000", ["1000"] * 10, 1.0),
    ],
)
def test_the_soft_score(tmp_path: Path, said: str, humans: list[str], correct: float) -> None:
    questions = read(tmp_path, row(1, answers=humans))
    assert corrects(scored(TextVQA(), questions, [said])) == [pytest.approx(correct, abs=1e-15)]


def test_llavas_answers_are_joined_by_image_and_question(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1, "What brand?"), row(2, "what colour?", answers=["blue"] * 10), row(3, image="b"))
    lines = tmp_path / "answers.jsonl"
    write_json_lines(
        lines,
        [
            {"question_id": "003a", "prompt": f"what colour?\nReference OCR token: A{SHORT}", "text": "blue"},
            {"question_id": "003a", "prompt": f"Reference OCR token: A\nWhat brand?{SHORT}", "text": "red"},
            {"question_id": "b", "prompt": f"what is the brand?{SHORT}", "text": "green"},
        ],
    )
    answers = TextVQA().read_answers(lines, questions)
    assert [answer.question_id for answer in answers] == ["2", "1", "3"]
    metrics = TextVQA().score(questions, answers).metrics
    assert metrics == {
        "accuracy": pytest.approx(200 / 3),
        "accuracy/with-ocr": 100.0,
        "accuracy/without-ocr": 0.0,
    }


def test_two_equal_questions_each_get_one_of_two_answers(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1), row(2))
    line = {"question_id": "003a", "prompt": f"what is the brand?{SHORT}", "text": "red"}
    lines = tmp_path / "answers.jsonl"
    write_json_lines(lines, [line, line])
    assert [answer.question_id for answer in TextVQA().read_answers(lines, questions)] == ["1", "2"]


def test_official_results_and_answers_by_question_id(tmp_path: Path) -> None:
    questions = read(tmp_path, row(34602))
    official = tmp_path / "results.json"
    official.write_text(json.dumps([{"question_id": 34602, "answer": "red"}]))
    assert TextVQA().score(questions, TextVQA().read_answers(official, questions)).metrics == {
        "accuracy": 100.0,
        "accuracy/ocr-unknown": 100.0,
    }
    ours = llava_lines(tmp_path / "ours.jsonl", {"34602": "red"}, {"34602": questions[0].prompt})
    metrics = TextVQA().score(questions, TextVQA().read_answers(ours, questions)).metrics
    assert metrics == {"accuracy": 100.0, "accuracy/without-ocr": 100.0}


def test_an_answer_to_no_question_is_named(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1))
    lines = llava_lines(tmp_path / "answers.jsonl", {"003a": "red"}, {"003a": "what else?\nAnswer."})
    with pytest.raises(DataError, match=r"'003a', 'what else.*no such image and question"):
        TextVQA().read_answers(lines, questions)


def test_an_unanswered_question_is_skipped_as_in_llavas_tool(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1), row(2, "other?"))
    score = TextVQA().score(questions, [Answer("1", "red")])
    assert score.metrics["accuracy"] == 100.0
    assert score.missing == ("2",)
    assert len(score.items) == 1
    with pytest.raises(DataError, match="no answers"):
        TextVQA().score(questions, [])


def test_other_than_ten_human_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="9 human answers; expected ten"):
        read(tmp_path, row(1, answers=REDS[:9]))
    unlabelled = {key: value for key, value in row(1).items() if key != "answers"}
    (question,) = read(tmp_path, unlabelled)
    with pytest.raises(DataError, match="no human answers"):
        TextVQA().score([question], [Answer("1", "red")])


def test_another_benchmarks_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    path.write_text("[]")
    with pytest.raises(DataError, match=r"val\.json.*TextVQA"):
        TextVQA().read(path)
