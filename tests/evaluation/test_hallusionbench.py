"""HallusionBench: accuracy per question, per question over all its figures, and per figure."""

from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, llava_lines, scored

from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks.hallusionbench import HallusionBench
from olivine.files import write_json
from olivine.records import Question


def row(category: str, figure: str, question: str, gold: str, visual: str) -> dict[str, Any]:
    return {
        "category": category,
        "subcategory": "chart",
        "set_id": "0",
        "figure_id": figure,
        "question_id": question,
        "question": "Is it?",
        "gt_answer": gold,
        "gt_answer_details": "It is.",
        "visual_input": visual,
        "filename": f"./{category}/chart/0_{figure}.png" if visual != "0" else None,
    }


ROWS = [
    row("VD", "0", "0", "1", "1"),
    row("VD", "0", "1", "0", "1"),
    row("VD", "1", "0", "0", "2"),  # the edited figure
    row("VS", "0", "0", "1", "0"),  # asked without the figure
    row("VS", "1", "0", "1", "1"),
]


def read(folder: Path) -> list[Question]:
    write_json(folder / "HallusionBench.json", ROWS)
    return HallusionBench().read(folder)


def test_questions(tmp_path: Path) -> None:
    first, *_, unseen, _ = read(tmp_path)
    assert (first.id, first.cluster, first.references) == ("VD_chart_0_0_0", "VD_chart_0", ("yes",))
    assert (first.image, unseen.image) == ("VD/chart/0_0.png", None)
    assert first.prompt == "Is it?\nAnswer the question using a single word or phrase."
    assert HallusionBench().read(tmp_path, "original")[0].prompt == "Is it?"


def test_accuracies_over_questions_figures_and_pairs(tmp_path: Path) -> None:
    # Right, wrong, right; unsure without the figure, which is right; right.
    score = scored(HallusionBench(), read(tmp_path), ["Yes.", "Yes", "no", "I cannot see it", "yes"])
    assert corrects(score) == [1, 0, 1, 1, 1]
    assert score.metrics == {
        "aAcc": 80,
        "qAcc": pytest.approx(200 / 3),  # VD question 0 (two figures) and VS question 0, not VD question 1
        "fAcc": pytest.approx(200 / 3),  # VD figure 0 is not all right; VS figure 0 is no figure
        "easy": pytest.approx(200 / 3),
        "hard": 100,
        "VD/aAcc": pytest.approx(200 / 3),
        "VD/qAcc": 50,
        "VD/fAcc": 50,
        "VS/aAcc": 100,
        "VS/qAcc": 100,
        "VS/fAcc": 100,
    }


def test_unclear_is_wrong_where_the_figure_is_shown(tmp_path: Path) -> None:
    assert corrects(scored(HallusionBench(), read(tmp_path), ["Perhaps"] * 5)) == [0, 0, 0, 1, 0]


def test_vlmevalkit_uses_only_questions_with_a_figure_and_joins_the_categories(tmp_path: Path) -> None:
    score = scored(HallusionBench(), read(tmp_path), ["yes", "no", "no", "yes", "no"], "vlmevalkit")
    assert corrects(score) == [1, 1, 1, 0]
    assert score.metrics["aAcc"] == 75
    assert score.metrics["qAcc"] == 50  # VS question 0 spoils VD question 0, which has its name
    assert score.metrics["fAcc"] == 50


def test_verdicts(tmp_path: Path) -> None:
    questions = read(tmp_path)
    replies = ["Correct", "This is incorrect.", "unclear", "unclear", "Not correct?"]
    verdicts = {question.id: reply for question, reply in zip(questions, replies, strict=True)}
    score = scored(HallusionBench(verdicts=verdicts), questions, ["?"] * 5, "judge")
    assert corrects(score) == [1, 0, 0, 1, 1]  # "incorrect" is searched for first, then "correct"
    with pytest.raises(RequestError, match="name a judge"):
        scored(HallusionBench(), questions, ["?"] * 5, "judge")


def test_official_rows_and_llavas_answers_are_read(tmp_path: Path) -> None:
    questions = read(tmp_path)
    write_json(tmp_path / "result.json", [each | {"model_prediction": "Yes"} for each in ROWS])
    answers = HallusionBench().read_answers(tmp_path / "result.json", questions)
    assert corrects(HallusionBench().score(questions, answers)) == [1, 0, 0, 1, 1]
    lines = llava_lines(tmp_path / "a.jsonl", {question.id: "Yes" for question in questions[:4]})
    score = HallusionBench().score(questions, HallusionBench().read_answers(lines, questions))
    assert corrects(score) == [1, 0, 0, 1, 0]
    assert score.missing == ("VS_chart_0_1_0",)


def test_broken_files_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "HallusionBench.json", [ROWS[0] | {"gt_answer": "2"}])
    with pytest.raises(DataError, match=r"item 1: gt_answer '2'; expected 0 \(no\) or 1 \(yes\)"):
        HallusionBench().read(tmp_path)
    write_json(tmp_path / "HallusionBench.json", {})
    with pytest.raises(DataError, match="a JSON dict"):
        HallusionBench().read(tmp_path)
