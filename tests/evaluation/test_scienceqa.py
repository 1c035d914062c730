"""ScienceQA: LLaVA's reading of answers, the official groups, and both published question files."""

from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, llava_lines, scored

from olivine.errors import DataError
from olivine.evaluation.benchmarks.scienceqa import ScienceQA
from olivine.files import write_json
from olivine.records import Answer, AnswerState, Question


def problem(answer: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "question": "Which is it?",
        "choices": ["stone", "wood", "glass"],
        "answer": answer,
        "hint": "",
        "image": None,
        "grade": "grade4",
        "subject": "natural science",
        "topic": "physics",
        "split": "test",
    } | changes


def read(folder: Path, problems: dict[str, Any]) -> list[Question]:
    write_json(folder / "problems.json", problems)
    return ScienceQA().read(folder / "problems.json")


def test_the_prompt_is_llavas(tmp_path: Path) -> None:
    rows = {"7": problem(hint="Look.", image="image.png"), "8": problem()}
    hinted, plain = read(tmp_path, rows)
    options = (
        "Which is it?\nA. stone\nB. wood\nC. glass\nAnswer with the option's letter from the given choices directly."
    )
    assert hinted.prompt == f"Context: Look.\n{options}"
    assert plain.prompt == options
    assert (hinted.image, plain.image) == ("test/7/image.png", None)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B. wood", "B"),
        ("B.", None),  # no space after the period, and not the bare letter
        ("B wood", None),
        ("b", None),
        (" B", None),
        ("The answer is B.", "B"),
        ("So, The answer is B!", "B"),  # any character may follow the letter
        ("The answer is B", None),  # but one must follow
        ("The answer is B. The answer is B.", None),  # and the phrase only once
        ("the answer is B.", None),
        ("A. stone. The answer is B.", "A"),
        ("E", None),  # known to the parser, but there are three choices
        ("FAILED", None),
        ("", None),
    ],
)
def test_llavas_parse(tmp_path: Path, text: str, letter: str | None) -> None:
    questions = read(tmp_path, {str(n): problem(n) for n in range(3)})
    assert corrects(scored(ScienceQA(), questions, [text] * 3)) == [letter == name for name in "ABC"]


@pytest.mark.parametrize(
    ("variant", "text", "right"),
    [
        ("lmms-eval", "B.", True),
        ("lmms-eval", "B", True),
        ("lmms-eval", "B wood", False),
        ("lmms-eval", "The answer is B.", False),
        ("vlmevalkit", "The answer is B", True),
        ("vlmevalkit", "It is made of wood", True),
        ("vlmevalkit", "wood or stone", False),
    ],
)
def test_other_tools_parse_differently(tmp_path: Path, variant: str, text: str, right: bool) -> None:
    assert corrects(scored(ScienceQA(), read(tmp_path, {"1": problem(1)}), [text], variant)) == [right]


def test_official_groups(tmp_path: Path) -> None:
    rows = {
        "1": problem(hint="h", image="image.png"),  # text and image
        "2": problem(image="image.png", grade="grade6", subject="social science"),
        "3": problem(hint="h", grade="grade7", subject="social science", topic="geography"),
        "4": problem(grade="grade12", subject="language science"),
    }
    metrics = scored(ScienceQA(), read(tmp_path, rows), ["A", "B", "A", "B"]).metrics
    assert metrics == {
        "accuracy": 50,
        "img": 50,
        "subject/language science": 0,
        "subject/natural science": 100,
        "subject/social science": 50,
        "context/image": 50,
        "context/none": 0,
        "context/text": 100,
        "grade/1-6": 50,
        "grade/7-12": 50,
        "topic/geography": 100,
        "topic/physics": pytest.approx(100 / 3),
    }


def test_a_missing_answer_is_wrong_and_only_llava_excludes_it_from_img(tmp_path: Path) -> None:
    questions = read(tmp_path, {"1": problem(image="image.png"), "2": problem(image="image.png")})
    official = ScienceQA().score(questions, [Answer("1", "A")])
    llava = ScienceQA().score(questions, [Answer("1", "A")], "llava")
    assert (official.metrics["accuracy"], official.metrics["img"]) == (50, 50)
    assert (llava.metrics["accuracy"], llava.metrics["img"]) == (50, 100)
    assert official.missing == llava.missing == ("2",)


def test_an_official_results_file_is_read_by_index(tmp_path: Path) -> None:
    questions = read(tmp_path, {"1": problem(1), "2": problem(2), "3": problem(0)})
    write_json(tmp_path / "r.json", {"acc": 1, "results": {"1": 1, "2": "0", "3": -1}})
    answers = ScienceQA().read_answers(tmp_path / "r.json", questions)
    assert [answer.text for answer in answers] == ["B", "A", ""]
    assert answers[2].state is AnswerState.EMPTY
    assert corrects(ScienceQA().score(questions, answers)) == [1, 0, 0]


@pytest.mark.parametrize("results", [{"1": 0}, {"1": 0, "2": 0, "3": 0}])
def test_official_results_must_be_those_of_the_split(tmp_path: Path, results: dict[str, int]) -> None:
    questions = read(tmp_path, {"1": problem(), "2": problem()})
    write_json(tmp_path / "r.json", {"results": results})
    with pytest.raises(DataError, match=f"{len(results)} results for 2 questions"):
        ScienceQA().read_answers(tmp_path / "r.json", questions)


def test_splits(tmp_path: Path) -> None:
    write_json(tmp_path / "problems.json", {"1": problem(), "2": problem(split="val"), "3": problem()})
    assert [question.id for question in ScienceQA().read(tmp_path)] == ["1", "3"]
    assert [question.id for question in ScienceQA(split="val").read(tmp_path)] == ["2"]
    write_json(tmp_path / "pid_splits.json", {"test": ["3", "1"], "minitest": ["3"]})
    assert [question.id for question in ScienceQA().read(tmp_path)] == ["3", "1"]
    assert [question.id for question in ScienceQA(split="minitest").read(tmp_path)] == ["3"]
    with pytest.raises(DataError, match="no problem of the split 'tset'"):
        ScienceQA(split="tset").read(tmp_path)


def test_llavas_question_file_is_read_and_takes_groups_from_problems_beside(tmp_path: Path) -> None:
    def item(key: str, said: str, **more: str) -> dict[str, Any]:
        human = "Context: h\nWhich is it?\nA. stone\nB. wood\n<image>"
        return {"id": key, "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": said}]} | more

    path = tmp_path / "llava_test_CQM-A.json"
    write_json(path, [item("1", "B", image="1/image.png"), item("2", "The answer is A.")])
    questions = ScienceQA().read(path)
    assert questions[0].prompt.startswith("Context: h\nWhich is it?\nA. stone\nB. wood\nAnswer with the option's")
    assert [q.references for q in questions] == [("B",), ("A",)]
    assert [q.image for q in questions] == ["1/image.png", None]
    assert questions[0].details["choices"] == ["stone", "wood"]
    said = llava_lines(tmp_path / "a.jsonl", {"1": "B", "2": "B"})
    score = ScienceQA().score(questions, ScienceQA().read_answers(said, questions))
    assert score.metrics == {"accuracy": 50, "img": 100}
    write_json(tmp_path / "problems.json", {"1": problem(1), "2": problem(0, subject="social science")})
    metrics = scored(ScienceQA(), ScienceQA().read(path), ["B", "B"]).metrics
    assert (metrics["subject/natural science"], metrics["subject/social science"]) == (100, 0)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "problems.json", {"1": {"question": "?", "split": "test"}})
    with pytest.raises(DataError, match="problem '1' lacks choices, answer"):
        ScienceQA().read(tmp_path)
    write_json(tmp_path / "problems.json", {"1": problem(3)})
    with pytest.raises(DataError, match="answer 3 of 3 choices"):
        ScienceQA().read(tmp_path)
    with pytest.raises(DataError, match="unknown"):
        ScienceQA().score(read(tmp_path, {"1": problem()}), [Answer("2", "A")])
