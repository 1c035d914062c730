"""MMMU: how official parsing finds the option or the number, and the groups."""

import random
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, scored

from olivine.errors import DataError
from olivine.evaluation.benchmarks.mmmu import MMMU
from olivine.files import write_json, write_json_lines
from olivine.records import Answer, Question


def choice(key: str = "validation_Math_1", gold: str = "B", options: str = "['cat', 'dog', 'cow']") -> dict[str, Any]:
    return {"id": key, "question": "Which <image 1>?", "options": options, "answer": gold} | {
        "question_type": "multiple-choice"
    }


def opened(gold: str, key: str = "validation_Math_9") -> dict[str, Any]:
    return {"id": key, "question": "How many?", "options": "[]", "answer": gold, "question_type": "open"}


def read(folder: Path, *rows: dict[str, Any]) -> list[Question]:
    write_json(folder / "mmmu.json", list(rows))
    return MMMU().read(folder / "mmmu.json")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("'B'", "B"),
        ("A or B", "B"),  # the last one named
        ("B, not A or so", "A"),  # `B,` does not stand between spaces
        ("(C) rather than B", "C"),  # brackets are tried before bare letters
        ("(A) no, (C)", "C"),
        ("I am sure that it is the Dog", "B"),  # more than five words: the option's text
        ("a dog and then again a cat here", "A"),
    ],
)
def test_the_official_choice(tmp_path: Path, text: str, letter: str) -> None:
    questions = read(tmp_path, *(choice(f"validation_Math_{n}", gold) for n, gold in enumerate("ABC")))
    assert corrects(scored(MMMU(), questions, [text] * 3)) == [letter == name for name in "ABC"]


def test_an_answer_that_names_no_option_is_drawn_at_random_in_subject_order(tmp_path: Path) -> None:
    keys = ("validation_Math_1", "validation_Art_1", "validation_Math_2", "validation_Art_2")
    questions = read(tmp_path, *(choice(key) for key in keys))
    rng = random.Random(42)
    # Art before Mathematics, in file order within a subject.
    drawn = {key: rng.choice("ABC") for key in (keys[1], keys[3], keys[0], keys[2])}
    score = scored(MMMU(), questions, ["it is a dog"] * 4)  # too short for the options' texts
    assert {item.question_id: item.correct for item in score.items} == {key: drawn[key] == "B" for key in keys}


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("3.14", "The result is 3.14159", True),  # rounded to two decimals
        ("3.14", "So x = 3.1", False),
        ("1200", "about 1,200 in all, the answer is 1,200.", True),
        ("1500", "It is 1.5e3", True),
        ("-2", "it is -2", True),
        ("5", "5", True),
        ("5", "it is five", False),
        ("red", "The color is dark Red", True),  # text need only be contained
        ("red", "Scarlet", False),
        ("x", "the axis is y", False),  # one letter must stand beside a space
        ("x", "it is x", True),  # a tail of one letter is given the same space
        ("x", "the axis is x here", True),
        ("['4', 'four']", "four", True),  # a list of answers as its text
        ("7", "First 3.\nThen 4, thus 7", True),
        ("3", "First is 3\nThen 4", True),  # tails of every line count
        ("4", "First is 3\nThen 4", False),  # a line without an indicator does not
        ("9", "x=9", True),  # an equation in the last line
        ("9", "x=9\nand this is it", False),
    ],
)
def test_the_official_open_answers(tmp_path: Path, gold: str, text: str, right: bool) -> None:
    assert corrects(scored(MMMU(), read(tmp_path, opened(gold)), [text])) == [right]


def test_prompts_and_images(tmp_path: Path) -> None:
    plain, imaged, question = read(
        tmp_path, choice(), choice("validation_Math_2", "A", "['<image 1>', '<image 2>']"), opened("3")
    )
    assert plain.prompt == (
        "Which ?\n(A) cat\n(B) dog\n(C) cow\n\nAnswer with the option's letter from the given choices directly."
    )
    assert (plain.image, imaged.image) == ("validation_Math_1_1.png", None)
    assert question.prompt == "How many?\n\nAnswer the question using a single word or phrase."


def test_answer_dict_and_outputs_are_read_and_compared_by_letter(tmp_path: Path) -> None:
    gold = {
        "validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "B"},
        "validation_Math_1": {"question_type": "multiple-choice", "ground_truth": "B"},
        "validation_Math_2": {"question_type": "short-answer", "ground_truth": ["3", "three"]},
        "validation_Math_3": {"question_type": "multiple-choice", "ground_truth": "A"},
    }
    write_json(tmp_path / "answer_dict_val.json", gold)
    questions = MMMU().read(tmp_path / "answer_dict_val.json")
    said = {"validation_Art_1": "B", "validation_Math_1": "(B)", "validation_Math_2": "three"}
    write_json(tmp_path / "said.json", said)
    score = MMMU().score(questions, MMMU().read_answers(tmp_path / "said.json", questions))
    assert score.metrics == {
        "accuracy": pytest.approx(2 / 3),  # of those answered
        "domain/Art and Design": 1,
        "domain/Science": 0.5,
        "subject/Art": 1,
        "subject/Math": 0.5,
    }
    assert score.missing == ("validation_Math_3",)
    with pytest.raises(DataError, match="no answer to any"):
        MMMU().score(questions, [])


def test_the_official_repositorys_outputs_are_read(tmp_path: Path) -> None:
    row = {"id": "validation_Math_1", "question_type": "multiple-choice", "answer": "A", "response": "(A)"}
    write_json(tmp_path / "Math" / "output.json", [row | {"all_choices": ["A"], "index2ans": {"A": "cat", "B": "dog"}}])
    questions = MMMU().read(tmp_path)
    answers = MMMU().read_answers(tmp_path, questions)
    assert answers == [Answer("validation_Math_1", "(A)")]
    assert corrects(MMMU().score(questions, answers)) == [1]
    write_json_lines(tmp_path / "rows.jsonl", [{"question_id": "validation_Math_1", "text": "B"}])
    assert MMMU().read_answers(tmp_path / "rows.jsonl", questions) == [Answer("validation_Math_1", "B")]
