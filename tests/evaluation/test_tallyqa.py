"""TallyQA: exact counts, the root mean squared error, and which questions are complex."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, llava_lines, scored

from olivine.errors import DataError
from olivine.evaluation.benchmarks.tallyqa import TallyQA
from olivine.files import write_json
from olivine.records import Answer, Question


def row(number: int, answer: int, simple: bool = True, source: str | None = "vqa") -> dict[str, Any]:
    return {
        "answer": answer,
        "image": f"VG_100K/{number}.jpg",
        "image_id": number,
        "issimple": simple,
        "question": "How many cats?",
        "question_id": 100 + number,
    } | ({"data_source": source} if source else {})


def read(folder: Path, *rows: Mapping[str, Any], prompt: str | None = None) -> list[Question]:
    write_json(folder / "test.json", list(rows))
    return TallyQA().read(folder, prompt)


def test_prompts(tmp_path: Path) -> None:
    (question,) = read(tmp_path, row(1, 4))
    assert question.prompt == "How many cats?\nAnswer the question using a single word or phrase."
    assert question.image == question.cluster == "VG_100K/1.jpg"
    (lettered,) = read(tmp_path, row(1, 4), prompt="prismatic")
    assert lettered.prompt.startswith("How many cats?\nA. 0\nB. 1\n")
    assert "\nP. 15\n" in lettered.prompt


@pytest.mark.parametrize(
    ("said", "gold", "official", "number"),
    [
        ("4", 4, True, True),
        (" 4\n", 4, True, True),
        ("4.", 4, False, True),
        ("four", 4, False, True),
        ("There are 4 cats, not 5", 4, False, True),
        ("many", 0, True, False),  # the tool reads any other text as 0
        ("", 0, True, False),
        ("none", 0, True, True),
        ("9" * 5000, 0, True, False),  # too large to be a count
        ("²", 2, False, False),
    ],
)
def test_how_a_number_is_read(tmp_path: Path, said: str, gold: int, official: bool, number: bool) -> None:
    questions = read(tmp_path, row(1, gold))
    assert corrects(scored(TallyQA(), questions, [said], "official")) == [official]
    assert corrects(scored(TallyQA(), questions, [said], "number")) == [number]


def test_a_letter_where_letters_were_requested(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1, 4), row(2, 15), row(3, 0), prompt="prismatic")
    assert corrects(scored(TallyQA(), questions, ["E", "P.", "0 cats"])) == [1, 1, 0]


def test_simple_complex_and_neither(tmp_path: Path) -> None:
    questions = read(
        tmp_path,
        row(1, 2),
        row(2, 3),
        row(3, 5, simple=False, source="amt"),
        row(4, 1, simple=True, source="amt"),  # written for TallyQA: complex, whatever it is marked as
        row(5, 1, simple=False),  # neither
    )
    metrics = scored(TallyQA(), questions, ["2", "7", "2", "1", "1"]).metrics
    assert metrics == {
        "accuracy": 60.0,
        "simple/accuracy": 50.0,
        "simple/rmse": pytest.approx(8**0.5),  # (0 + 16) / 2
        "complex/accuracy": 50.0,
        "complex/rmse": pytest.approx(4.5**0.5),  # (9 + 0) / 2
    }


def test_without_sources_issimple_decides(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1, 1, source=None), row(2, 1, simple=False, source=None))
    metrics = scored(TallyQA(), questions, ["1", "2"]).metrics
    assert (metrics["simple/accuracy"], metrics["complex/accuracy"]) == (100.0, 0.0)


def test_both_answer_formats(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1, 4))
    results = tmp_path / "results.json"
    for answer in (4, "4"):
        write_json(results, [{"question_id": 101, "answer": answer}])
        assert TallyQA().read_answers(results, questions) == [Answer("101", "4")]
    lines = llava_lines(tmp_path / "lines.jsonl", {"101": "4"})
    assert TallyQA().read_answers(lines, questions) == [Answer("101", "4")]


def test_missing_answers(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1, 4), row(2, 0))
    with pytest.raises(DataError, match="1 of 2 questions have no answer"):
        TallyQA().score(questions, [Answer("101", "4")])
    score = TallyQA().score(questions, [Answer("101", "4")], "number")
    assert score.metrics["accuracy"] == 50.0
    assert score.missing == ("102",)


def test_another_benchmarks_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="TallyQA"):
        read(tmp_path, {"question_id": 1, "question": "?"})
