"""VQAv2: both official behaviours and the normalised one, on small files of the official layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks.vqav2 import Prediction, VQAv2
from olivine.records import Answer, Question

NAME = "v2_mscoco_val2014_annotations.json"
QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"


def humans(*answers: str, ids: bool = True) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "answer_confidence": "yes"} | ({"answer_id": number} if ids else {})
        for number, answer in enumerate(answers, start=1)
    ]


def annotation(
    number: int, answers: list[dict[str, Any]], answer_type: str = "other", question_type: str = "what"
) -> dict[str, Any]:
    return {
        "question_id": number,
        "image_id": number // 10,
        "question_type": question_type,
        "answer_type": answer_type,
        "multiple_choice_answer": "",
        "answers": answers,
    }


def write(folder: Path, *annotations: Mapping[str, Any], questions: bool = True) -> list[Question]:
    (folder / NAME).write_text(json.dumps({"data_subtype": "val2014", "annotations": list(annotations)}))
    if questions:
        rows = [
            {
                "question_id": row["question_id"],
                "image_id": row["image_id"],
                "question": f"What is {row['question_id']}?",
            }
            for row in annotations
        ]
        (folder / QUESTIONS).write_text(json.dumps({"data_subtype": "val2014", "questions": rows}))
    return VQAv2().read(folder / NAME)


def accuracy(folder: Path, answers: list[dict[str, Any]], said: str, variant: str) -> float:
    questions = write(folder, annotation(420, answers))
    return VQAv2().score(questions, [Prediction("420", said)], variant).metrics["accuracy"]


def test_reads_the_official_pair_of_files(tmp_path: Path) -> None:
    (question,) = write(tmp_path, annotation(42001, humans(*["red"] * 10)))
    assert question.id == "42001"
    assert question.prompt == "What is 42001?\nAnswer the question using a single word or phrase."
    assert question.image == "COCO_val2014_000000004200.jpg"
    assert question.cluster == "4200"
    assert question.references == ("red",) * 10
    for path in (tmp_path, tmp_path / QUESTIONS):
        assert VQAv2().read(path) == [question]


def test_files_under_other_names_are_not_taken_for_their_own_companions(tmp_path: Path) -> None:
    write(tmp_path, annotation(420, humans(*["red"] * 10)), questions=False)
    other = next(tmp_path.glob("*_annotations.json")).rename(tmp_path / "mine.json")
    (question,) = VQAv2().read(other)
    assert (question.id, question.prompt) == ("420", "")


def test_annotations_alone_can_be_scored_and_questions_alone_asked(tmp_path: Path) -> None:
    (question,) = write(tmp_path, annotation(420, humans(*["red"] * 10)), questions=False)
    assert question.prompt == ""
    assert VQAv2().score([question], [Answer("420", "red")]).metrics["accuracy"] == 100.0
    test = tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    row = {"question_id": 1, "image_id": 7, "question": "Why?"}
    test.write_text(json.dumps({"data_subtype": "test-dev2015", "questions": [row]}))
    (asked,) = VQAv2().read(test)
    assert asked.image == "COCO_test2015_000000000007.jpg"
    with pytest.raises(DataError, match="no human answers"):
        VQAv2().score([asked], [Answer("1", "red")])


@pytest.mark.parametrize(
    ("said", "of_2021", "of_2017", "normalised"),
    [
        ("yes", 100.0, 100.0, 100.0),
        ("Yes", 0.0, 100.0, 100.0),  # all ten identical: letter for letter in 2021
        ("yes.", 0.0, 100.0, 100.0),
        (" yes\n", 100.0, 100.0, 100.0),  # white space is stripped before the gate
        ("the yes", 0.0, 100.0, 100.0),
    ],
)
def test_the_gate_of_identical_answers(
    tmp_path: Path, said: str, of_2021: float, of_2017: float, normalised: float
) -> None:
    answers = humans(*["yes"] * 10)
    found = [accuracy(tmp_path, answers, said, variant) for variant in ("2021", "2017", "normalised")]
    assert found == [of_2021, of_2017, normalised]


@pytest.mark.parametrize(
    ("said", "of_2021", "of_2017", "normalised"),
    [
        ("two", 100.0, 0.0, 100.0),  # 2017 turns the answer into 2 but keeps the humans' two
        ("2", 100.0, 0.0, 100.0),
        ("TWO.", 100.0, 0.0, 100.0),
    ],
)
def test_2017_does_not_map_the_numbers_of_human_answers(
    tmp_path: Path, said: str, of_2021: float, of_2017: float, normalised: float
) -> None:
    answers = humans(*["two"] * 9, "3")
    found = [accuracy(tmp_path, answers, said, variant) for variant in ("2021", "2017", "normalised")]
    assert found == [of_2021, of_2017, normalised]


def test_2017_strips_human_punctuation_only_where_they_differ(tmp_path: Path) -> None:
    assert accuracy(tmp_path, humans(*["u.s."] * 10), "u.s.", "2017") == 0.0
    assert accuracy(tmp_path, humans(*["u.s."] * 9, "usa"), "u.s.", "2017") == 100.0
    assert accuracy(tmp_path, humans(*["u.s."] * 10), "u.s.", "2021") == 100.0


def test_the_2021_gate_compares_stripped_answers(tmp_path: Path) -> None:
    # Nine differ from the tenth in white space alone: stripped, they are identical, and nothing is normalised.
    assert accuracy(tmp_path, humans(*["yes"] * 9, " yes\n"), "Yes", "2021") == 0.0


@pytest.mark.parametrize(("agreeing", "percent"), [(0, 0.0), (1, 30.0), (2, 60.0), (3, 90.0), (4, 100.0)])
@pytest.mark.parametrize("variant", ["2021", "2017", "normalised"])
def test_leave_one_out(tmp_path: Path, agreeing: int, percent: float, variant: str) -> None:
    answers = humans(*["red"] * agreeing, *["blue"] * (10 - agreeing))
    assert accuracy(tmp_path, answers, "red", variant) == percent


def test_without_ids_equal_answers_are_excluded_together(tmp_path: Path) -> None:
    answers = humans(*["red"] * 4, *["blue"] * 6, ids=False)
    # Leaving out a red leaves out all four; the six blue ones see four reds each: 6 of 10.
    assert accuracy(tmp_path, answers, "red", "2021") == 60.0


def test_a_models_own_words_are_converted_as_llava_does_before_2021(tmp_path: Path) -> None:
    questions = write(tmp_path, annotation(420, humans(*["yes"] * 10)))
    assert VQAv2().score(questions, [Answer("420", "Yes.")], "2021").metrics["accuracy"] == 100.0
    assert VQAv2().score(questions, [Prediction("420", "Yes.")], "2021").metrics["accuracy"] == 0.0


def test_scoring_twice_gives_the_same(tmp_path: Path) -> None:
    # The official tool overwrites the human answers: a second pass would find "2" ten times and close the gate.
    questions = write(tmp_path, annotation(420, humans(*["two"] * 9, "2")))
    for _ in range(2):
        assert VQAv2().score(questions, [Prediction("420", "Two")], "2021").metrics["accuracy"] == 100.0


def test_per_type_and_rounding(tmp_path: Path) -> None:
    reds = humans(*["red"] * 10)
    questions = write(
        tmp_path,
        annotation(10, reds, "other", "what color"),
        annotation(11, reds, "other", "what color"),
        annotation(12, humans("blue", *["red"] * 9), "other", "what"),
        annotation(13, humans(*["yes"] * 10), "yes/no", "is the"),
    )
    said = {"10": "red", "11": "green", "12": "blue", "13": "yes"}
    score = VQAv2().score(questions, [Prediction(key, text) for key, text in said.items()])
    assert score.variant == "2021"
    assert score.metrics == {
        "accuracy": 57.5,
        "answer_type/other": 43.33,
        "answer_type/yes/no": 100.0,
        "question_type/is the": 100.0,
        "question_type/what": 30.0,
        "question_type/what color": 50.0,
    }
    assert [item.correct for item in score.items] == pytest.approx([1.0, 0.0, 0.3, 1.0])
    assert {item.cluster for item in score.items} == {"1"}


def test_answers_of_both_formats_are_recognised(tmp_path: Path) -> None:
    questions = write(tmp_path, annotation(420, humans(*["yes"] * 10)))
    official = tmp_path / "results.json"
    official.write_text(json.dumps([{"question_id": 420, "answer": "Yes"}]))
    lines = tmp_path / "merge.jsonl"
    lines.write_text(json.dumps({"question_id": 420, "prompt": "", "text": "Yes"}) + "\n")
    benchmark = VQAv2()
    assert benchmark.score(questions, benchmark.read_answers(official, questions)).metrics["accuracy"] == 0.0
    assert benchmark.score(questions, benchmark.read_answers(lines, questions)).metrics["accuracy"] == 100.0


@pytest.mark.parametrize("variant", ["2021", "2017"])
def test_the_official_variants_refuse_missing_answers(tmp_path: Path, variant: str) -> None:
    questions = write(tmp_path, annotation(420, humans(*["yes"] * 10)), annotation(421, humans(*["no"] * 10)))
    with pytest.raises(DataError, match=r"1 of 2 questions have no answer.*'421'"):
        VQAv2().score(questions, [Prediction("420", "yes")], variant)


def test_normalised_counts_missing_answers_as_wrong(tmp_path: Path) -> None:
    questions = write(tmp_path, annotation(420, humans(*["yes"] * 10)), annotation(421, humans(*["no"] * 10)))
    score = VQAv2().score(questions, [Prediction("420", "yes")], "normalised")
    assert score.metrics["accuracy"] == 50.0
    assert score.missing == ("421",)


@pytest.mark.parametrize("ids", [("420", "999"), ("420", "420")])
def test_unknown_and_repeated_answers_are_refused(tmp_path: Path, ids: tuple[str, str]) -> None:
    questions = write(tmp_path, annotation(420, humans(*["yes"] * 10)))
    with pytest.raises(DataError):
        VQAv2().score(questions, [Prediction(key, "yes") for key in ids])


def test_other_files_are_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"201307251": {"question": "?"}}')
    with pytest.raises(DataError, match=r"wrong\.json.*VQAv2"):
        VQAv2().read(wrong)
    write(tmp_path, annotation(420, humans(*["yes"] * 10)))
    other = {"questions": [{"question_id": 1, "image_id": 1, "question": "?"}]}
    (tmp_path / QUESTIONS).write_text(json.dumps(other))
    with pytest.raises(DataError, match="420 is not in the questions file"):
        VQAv2().read(tmp_path / NAME)
    with pytest.raises(RequestError, match="2021, 2017, normalised"):
        VQAv2().score([], [], "2019")
