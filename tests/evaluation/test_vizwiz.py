"""VizWiz: unchanged human answers, typographic contractions, and detecting unanswerable questions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, llava_lines, scored

from olivine.errors import DataError
from olivine.evaluation.benchmarks.vizwiz import Prediction, VizWiz
from olivine.files import write_json
from olivine.records import Answer, Question


def row(number: int, *answers: str, **more: Any) -> dict[str, Any]:
    return {
        "image": f"VizWiz_val_{number:08d}.jpg",
        "question": "what IS this?",
        "answers": [{"answer": answer, "answer_confidence": "yes"} for answer in answers],
        "answer_type": "other",
        "answerable": 1,
    } | more


def read(folder: Path, *rows: Mapping[str, Any], prompt: str | None = None) -> list[Question]:
    write_json(folder / "Annotations" / "val.json", list(rows))
    return VizWiz().read(folder, prompt)


def test_the_prompt_offers_unanswerable(tmp_path: Path) -> None:
    (question,) = read(tmp_path, row(7, *["can"] * 10))
    assert question.id == question.image == question.cluster == "VizWiz_val_00000007.jpg"
    assert question.prompt == (
        "what IS this?\nWhen the provided information is insufficient, respond with 'Unanswerable'."
        "\nAnswer the question using a single word or phrase."
    )
    (capital,) = read(tmp_path, row(7, *["can"] * 10), prompt="lmms-eval")
    assert capital.prompt.startswith("What is this?\nWhen")


@pytest.mark.parametrize(
    ("said", "humans", "official", "llava", "lmms"),
    [
        ("Can.", ["can"] * 10, 1.0, 1.0, 1.0),  # no gate for identical answers
        ("can", ["Can"] * 10, 0.0, 0.0, 1.0),  # human answers as they are
        ("a can", ["a can"] * 10, 0.0, 0.0, 1.0),
        ("didnt", ["didn't"] * 10, 0.0, 1.0, 1.0),  # the typographic apostrophe
        ("couldnt", ["couldn't"] * 10, 1.0, 1.0, 1.0),  # one of the eight straight entries
        ("didn't", ["didn't"] * 10, 1.0, 1.0, 1.0),
        ("it's", ["it's"] * 10, 1.0, 0.0, 1.0),  # LLaVA's conversion sets off the 's
        ("can", ["can"] + ["jar"] * 9, 0.3, 0.3, 0.3),
        ("can", ["can"] * 3 + ["jar"] * 7, 0.9, 0.9, 0.9),
        ("can", ["can"] * 4 + ["jar"] * 6, 1.0, 1.0, 1.0),  # four equal rows, excluded one at a time
    ],
)
def test_what_the_variants_compare(
    tmp_path: Path, said: str, humans: list[str], official: float, llava: float, lmms: float
) -> None:
    questions = read(tmp_path, row(1, *humans))
    found = [corrects(scored(VizWiz(), questions, [said], variant)) for variant in VizWiz.variants]
    assert found == [[pytest.approx(value, abs=1e-15)] for value in (official, llava, lmms)]


def test_per_answer_type_to_two_decimals(tmp_path: Path) -> None:
    questions = read(
        tmp_path,
        row(1, *["can"] * 10),
        row(2, *["can"] * 10),
        row(3, "can", *["jar"] * 9, answer_type="number"),
    )
    metrics = scored(VizWiz(), questions, ["can", "jar", "can"]).metrics
    assert metrics["accuracy"] == 43.33
    assert metrics["answer_type/other"] == 50.0
    assert metrics["answer_type/number"] == 30.0


def test_the_unanswerable_by_the_answers_text(tmp_path: Path) -> None:
    questions = read(tmp_path, *(row(n, *["x"] * 10, answerable=int(n > 2)) for n in range(1, 6)))
    metrics = scored(VizWiz(), questions, ["Unanswerable.", "can", "unanswerable", "can", "can"]).metrics
    # Found 1 of 2 with 2 tries. Average precision: .5 recall at precision 1/2, then the rest at 2/5.
    assert metrics["unanswerable/f1"] == 50.0
    assert metrics["unanswerable/average_precision"] == 45.0


def test_the_unanswerable_by_the_results_own_scores(tmp_path: Path) -> None:
    questions = read(tmp_path, *(row(n, *["x"] * 10, answerable=int(n > 2)) for n in range(1, 5)))
    scores = [0.1, 0.5, 0.4, 0.9]
    answers = [Prediction(q.id, "x", answerable=score) for q, score in zip(questions, scores, strict=True)]
    metrics = VizWiz().score(questions, answers).metrics
    # By falling doubt: right (1/1), wrong, right (2/3), wrong. More than .5 in doubt: the first two, one of them right.
    assert metrics["unanswerable/average_precision"] == 83.33
    assert metrics["unanswerable/f1"] == 50.0


def test_no_figure_for_the_unanswerable_without_labels(tmp_path: Path) -> None:
    unlabelled = {key: value for key, value in row(1, *["x"] * 10).items() if key != "answerable"}
    metrics = scored(VizWiz(), read(tmp_path, unlabelled), ["x"]).metrics
    assert not any(name.startswith("unanswerable") for name in metrics)


def test_both_answer_formats(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1, *["can"] * 10))
    official = tmp_path / "results.json"
    write_json(official, [{"image": questions[0].image, "answer": "can", "answerable": 0.75}])
    (answer,) = VizWiz().read_answers(official, questions)
    assert answer == Prediction(questions[0].id, "can", answerable=0.75)
    lines = llava_lines(tmp_path / "lines.jsonl", {"VizWiz_val_00000001": "can"})
    assert VizWiz().read_answers(lines, questions) == [Answer(questions[0].id, "can")]
    write_json(official, [{"image": questions[0].image, "answer": 5}])
    with pytest.raises(DataError, match="answer 1: expected answer as text"):
        VizWiz().read_answers(official, questions)


def test_a_missing_answer_stops_the_official_variants(tmp_path: Path) -> None:
    questions = read(tmp_path, row(1, *["can"] * 10), row(2, *["jar"] * 10))
    answers = [Answer(questions[0].id, "can")]
    for variant in ("official", "llava"):
        with pytest.raises(DataError, match="1 of 2 questions have no answer"):
            VizWiz().score(questions, answers, variant)
    score = VizWiz().score(questions, answers, "lmms-eval")
    assert score.metrics["accuracy"] == 50.0
    assert score.missing == (questions[1].id,)


def test_the_test_split_and_other_files(tmp_path: Path) -> None:
    (question,) = read(tmp_path, {"image": "a.jpg", "question": "?"})
    with pytest.raises(DataError, match="no human answers"):
        VizWiz().score([question], [Answer("a.jpg", "x")])
    with pytest.raises(DataError, match="VizWiz"):
        read(tmp_path, {"question_id": 1})
