"""GQA's scoring against hand-worked cases and the published figures of LLaVA-1.5-13B."""

from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, llava_lines, real, scored

from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks.gqa import GQA
from olivine.files import write_json
from olivine.records import Answer, Question


def row(answer: str = "red", structural: str = "query", **changes: Any) -> dict[str, Any]:
    types = {"structural": structural, "semantic": "attr", "detailed": changes.pop("detailed", "colorQ")}
    return {
        "question": "What color is it?",
        "imageId": "n1",
        "isBalanced": True,
        "answer": answer,
        "types": types,
        "groups": {"global": changes.pop("group", None)},
        "entailed": [],
        "semantic": [{"operation": "select", "argument": "car (1)"}, {"operation": "query", "argument": "color"}],
    } | changes


def read(folder: Path, rows: dict[str, Any], benchmark: GQA | None = None) -> list[Question]:
    write_json(folder / "testdev_balanced_questions.json", rows)
    return (benchmark or GQA()).read(folder / "testdev_balanced_questions.json")


def test_a_question_carries_llavas_wording_and_its_image(tmp_path: Path) -> None:
    (question,) = read(tmp_path, {"1": row()})
    assert question.prompt == "What color is it?\nAnswer the question using a single word or phrase."
    assert (question.id, question.image, question.cluster, question.references) == ("1", "n1.jpg", "n1", ("red",))


def test_official_predictions_are_compared_unchanged(tmp_path: Path) -> None:
    questions = read(tmp_path, {"1": row("yes"), "2": row("yes"), "3": row("yes")})
    write_json(
        tmp_path / "p.json",
        [{"questionId": key, "prediction": text} for key, text in zip("123", ("yes", "Yes", "yes."), strict=True)],
    )
    answers = GQA().read_answers(tmp_path / "p.json", questions)
    assert corrects(GQA().score(questions, answers)) == [1, 0, 0]
    assert corrects(GQA().score(questions, answers, "llava")) == [1, 1, 1]


def test_llavas_answers_lose_trailing_periods_and_capitals_first(tmp_path: Path) -> None:
    questions = read(tmp_path, {"1": row("yes"), "2": row("yes"), "3": row("yes")})
    answers = GQA().read_answers(llava_lines(tmp_path / "a.jsonl", {"1": "Yes..", "2": "YES", "3": " yes"}), questions)
    assert corrects(GQA().score(questions, answers)) == [1, 1, 0]  # no white space is stripped
    assert corrects(GQA().score(questions, answers, "raw")) == [0, 0, 0]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # gold: t-shirt, t-shirt, yes, yes, yes
        ("llava", [1, 0, 1, 0, 0]),
        ("prismatic", [0, 0, 1, 0, 1]),  # the prediction's hyphen is removed, the gold answer's stays
        ("lmms-eval", [1, 1, 1, 0, 1]),
        ("vlmevalkit", [1, 0, 0, 1, 0]),
    ],
)
def test_variants_convert_as_their_tools_do(tmp_path: Path, variant: str, expected: list[float]) -> None:
    gold = ("t-shirt", "t-shirt", "yes", "yes", "yes")
    questions = read(tmp_path, {str(n): row(answer) for n, answer in enumerate(gold)})
    score = scored(GQA(), questions, ["T-shirt", "tshirt", "Yes.", " Yes ", "yes!"], variant)
    assert corrects(score) == expected


def test_binary_means_all_questions_except_queries(tmp_path: Path) -> None:
    rows = {"1": row("a"), "2": row("a"), "3": row("a", "verify"), "4": row("a", "choose"), "5": row("a", "logical")}
    metrics = scored(GQA(), read(tmp_path, rows), ["a", "b", "a", "a", "b"]).metrics
    assert metrics["accuracy"] == 60
    assert metrics["open"] == 50
    assert metrics["binary"] == pytest.approx(200 / 3)
    assert (metrics["structural/choose"], metrics["structural/logical"], metrics["semantic/attr"]) == (100, 0, 60)


def test_closing_operations_do_not_count_as_steps_and_words_split_at_white_space(tmp_path: Path) -> None:
    def operations(*texts: str) -> list[dict[str, str]]:
        return [dict(zip(("operation", "argument"), text.split(": "), strict=True)) for text in texts]

    rows = {
        "1": row(semantic=operations("select: car (1)", "query: color")),
        "2": row(semantic=operations("select: car (1)", "relate: _,on,s (2)", "query: name")),
        "3": row(semantic=operations("select: car (1)", "exist: ?", "choose name: cat|dog"), question="Is it?"),
    }
    metrics = scored(GQA(), read(tmp_path, rows), ["red", "red", "blue"]).metrics
    assert (metrics["steps/1"], metrics["steps/2"]) == (0, 100)
    assert (metrics["words/2"], metrics["words/4"]) == (0, 100)


def test_only_balanced_questions_count(tmp_path: Path) -> None:
    score = scored(GQA(), read(tmp_path, {"1": row(), "2": row(isBalanced=False)}), ["red", "blue"])
    assert score.metrics["accuracy"] == 100
    assert [item.question_id for item in score.items] == ["1"]


def test_validity_and_plausibility_come_from_the_choices_beside(tmp_path: Path) -> None:
    rows = {"1": row()} | {str(n): row(detailed="twoCommon") for n in range(2, 6)}
    choice = {"valid": ["red", "blue", "wood"], "plausible": ["red"]}
    write_json(tmp_path / "testdev_choices.json", dict.fromkeys(rows, choice))
    questions = read(tmp_path, rows)
    # What two objects have in common is always a color, a material or a shape, whatever the file says.
    metrics = scored(GQA(), questions, ["blue", "red", "material", "color", "shape"]).metrics
    assert metrics["validity"] == 80
    assert metrics["plausibility"] == 60


def test_choices_can_be_named_and_must_cover_every_question(tmp_path: Path) -> None:
    write_json(tmp_path / "c.json", {"1": {"valid": ["red"], "plausible": ["blue"]}})
    questions = read(tmp_path, {"1": row()}, GQA(choices=tmp_path / "c.json"))
    metrics = scored(GQA(), questions, ["red"]).metrics
    assert (metrics["validity"], metrics["plausibility"]) == (100, 0)
    with pytest.raises(DataError, match="lacks 2"):
        read(tmp_path, {"1": row(), "2": row()}, GQA(choices=tmp_path / "c.json"))


def test_without_choices_there_is_no_validity(tmp_path: Path) -> None:
    assert "validity" not in scored(GQA(), read(tmp_path, {"1": row()}), ["red"]).metrics


def test_consistency_averages_over_right_answers_that_entail_others(tmp_path: Path) -> None:
    rows = {
        "1": row(entailed=["1", "4", "5"]),  # right: of 4 and 5 (itself excluded) one is right
        "2": row(entailed=["4"]),  # right: all
        "3": row(entailed=["5"]),  # wrong: not counted
        "4": row(isBalanced=False),
        "5": row(isBalanced=False, entailed=["3"]),  # unbalanced: not counted, though it entails
        "6": row(),  # right, but entails nothing
    }
    metrics = scored(GQA(), read(tmp_path, rows), ["red", "red", "no", "red", "no", "red"]).metrics
    assert metrics["consistency"] == 75


def test_consistency_needs_every_entailed_question(tmp_path: Path) -> None:
    questions = read(tmp_path, {"1": row(entailed=["2"])})
    assert "consistency" not in scored(GQA(), questions, ["red"]).metrics
    questions = read(tmp_path, {"1": row(entailed=["2"]), "2": row(isBalanced=False)})
    score = GQA().score(questions, [Answer("1", "red")])
    assert "consistency" not in score.metrics
    assert score.missing == ("2",)


def test_distribution_is_a_chi_square_over_gold_answers_weighted_by_group(tmp_path: Path) -> None:
    rows = {
        **{str(n): row("red", group="color") for n in range(3)},
        "3": row("blue", group="color"),
        "4": row("dog", group="animal"),
        "5": row("dog", group="animal"),
        "6": row("far", group=None),
    }
    said = ["red", "red", "red", "red", "dog", "cat", "near"]
    metrics = scored(GQA(), read(tmp_path, rows), said).metrics
    color = (4 - 3) ** 2 / 3 + (0 - 1) ** 2 / 1
    animal = (1 - 2) ** 2 / 2  # cat is no gold answer of the group: not summed over
    assert metrics["distribution"] == pytest.approx((4 * color + 2 * animal) / 6 / 100)


@pytest.mark.parametrize("variant", ["official", "raw", "llava", "prismatic"])
def test_the_official_tool_refuses_a_missing_prediction(tmp_path: Path, variant: str) -> None:
    questions = read(tmp_path, {"1": row(), "2": row()})
    with pytest.raises(DataError, match=r"1 of 2 questions have no answer \(first: '2'\)"):
        GQA().score(questions, [Answer("1", "red")], variant)


@pytest.mark.parametrize("variant", ["lmms-eval", "vlmevalkit"])
def test_in_other_variants_a_missing_answer_is_wrong_and_named(tmp_path: Path, variant: str) -> None:
    score = GQA().score(read(tmp_path, {"1": row(), "2": row()}), [Answer("1", "red")], variant)
    assert score.metrics["accuracy"] == 50
    assert score.missing == ("2",)


def test_unknown_and_repeated_answers_are_refused(tmp_path: Path) -> None:
    questions = read(tmp_path, {"1": row()})
    with pytest.raises(DataError, match="unknown"):
        GQA().score(questions, [Answer("1", "red"), Answer("9", "red")])
    with pytest.raises(DataError, match="more than once"):
        GQA().score(questions, [Answer("1", "red"), Answer("1", "red")])
    with pytest.raises(RequestError, match="no variant 'strict'"):
        GQA().score(questions, [Answer("1", "red")], "strict")


def test_chunks_and_the_official_folder_are_read(tmp_path: Path) -> None:
    chunks = tmp_path / "train_all_questions"
    write_json(chunks / "train_all_questions_0.json", {"1": row()})
    write_json(chunks / "train_all_questions_1.json", {"2": row()})
    assert [question.id for question in GQA().read(chunks)] == ["1", "2"]
    official = tmp_path / "questions"
    write_json(official / "val_balanced_questions.json", {"3": row()})
    assert [question.id for question in GQA().read(official)] == ["3"]
    write_json(official / "val_all_questions.json", {"4": row()})
    with pytest.raises(DataError, match=r"found val_all_questions\.json, val_balanced_questions\.json"):
        GQA().read(official)
    write_json(official / "testdev_balanced_questions.json", {"5": row()})
    assert [question.id for question in GQA().read(official)] == ["5"]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "list.json", [1])
    with pytest.raises(DataError, match=r"list\.json: a JSON list"):
        GQA().read(tmp_path / "list.json")
    write_json(tmp_path / "other.json", {"1": {"question": "?"}})
    with pytest.raises(DataError, match="question '1' lacks imageId"):
        GQA().read(tmp_path / "other.json")
    questions = read(tmp_path, {"1": row()})
    (tmp_path / "cut.jsonl").write_text('{"question_id": "1", "text": "red"}\n{"question_id": "2", "te')
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        GQA().read_answers(tmp_path / "cut.jsonl", questions)


def test_a_split_without_answers_can_be_asked_but_not_scored(tmp_path: Path) -> None:
    questions = read(tmp_path, {"1": {"question": "Why?", "imageId": "n1", "isBalanced": True}})
    assert questions[0].prompt.startswith("Why?")
    with pytest.raises(DataError, match="no gold answer"):
        scored(GQA(), questions, ["red"])


@pytest.fixture(scope="module")
def llava_13b() -> tuple[list[Question], list[Answer]]:
    folder = real("gqa")
    questions = GQA().read(folder)
    return questions, GQA().read_answers(folder / "answers-llava-v1.5-13b.jsonl", questions)


def test_published_figures_of_llava_13b(llava_13b: tuple[list[Question], list[Answer]]) -> None:
    score = GQA().score(*llava_13b)
    metrics = {name: round(score.metrics[name], 2) for name in ("accuracy", "binary", "open", "distribution")}
    assert metrics == {"accuracy": 63.31, "binary": 80.60, "open": 48.64, "distribution": 1.80}
    assert len(score.items) == 12578
    assert len({item.cluster for item in score.items}) == 398
    assert "consistency" not in score.metrics  # most entailed questions lie outside the balanced set


@pytest.mark.parametrize(("variant", "expected"), [("prismatic", 63.301), ("lmms-eval", 63.309), ("raw", 0.0)])
def test_measured_figures_of_other_tools(
    llava_13b: tuple[list[Question], list[Answer]], variant: str, expected: float
) -> None:
    assert round(GQA().score(*llava_13b, variant).metrics["accuracy"], 3) == expected
