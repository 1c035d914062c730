"""POPE's scoring against hand-worked cases and the published figures of LLaVA-1.5-13B on both label versions."""

from pathlib import Path

import pytest
from benchmark_files import corrects, llava_lines, real, scored

from olivine.errors import DataError
from olivine.evaluation.benchmarks.pope import POPE
from olivine.files import write_json_lines
from olivine.records import Answer, Question


def label(number: int, answer: str = "yes", thing: str = "cat", image: str = "1.jpg") -> dict[str, object]:
    return {"question_id": number, "image": image, "text": f"Is there a {thing} in the image?", "label": answer}


def labels(folder: Path, setting: str = "random", *rows: dict[str, object]) -> Path:
    path = folder / f"coco_pope_{setting}.json"
    write_json_lines(path, rows)
    return path


def ask(folder: Path, gold: str, setting: str = "random") -> list[Question]:
    """Return one question per letter of `gold`: y or n."""
    rows = [label(n, {"y": "yes", "n": "no"}[g], f"thing{n}") for n, g in enumerate(gold, start=1)]
    return POPE().read(labels(folder, setting, *rows))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("There is not", "no"),
        ("No, there is none", "no"),  # commas are removed before the text is split into words
        ("", "yes"),
        ("NO", "yes"),  # case-sensitive
        ("no!", "yes"),
        ("I don't see one", "yes"),
        ("I think. No", "yes"),  # only the text before the first period is read
        ("No. Yes", "no"),
        ("Yes\nno", "yes"),  # only single spaces separate words
        ("know", "yes"),
    ],
)
def test_the_official_parse(tmp_path: Path, text: str, said: str) -> None:
    yes, no = ask(tmp_path, "yn")
    assert corrects(scored(POPE(), [yes, no], [text, text])) == [said == "yes", said == "no"]


def test_the_figures_of_a_hand_worked_case(tmp_path: Path) -> None:
    questions = ask(tmp_path, "yyyynn")
    metrics = scored(POPE(), questions, ["Yes", "Yes", "Yes", "No", "Yes", "No"]).metrics
    assert metrics["random/precision"] == 3 / 4
    assert metrics["random/recall"] == 3 / 4
    assert metrics["random/f1"] == 3 / 4
    assert metrics["random/accuracy"] == 4 / 6
    assert metrics["random/yes_ratio"] == 4 / 6


def test_a_model_that_never_says_yes_scores_zero_instead_of_dividing_by_it(tmp_path: Path) -> None:
    metrics = scored(POPE(), ask(tmp_path, "yn"), ["No", "No"]).metrics
    assert (metrics["random/precision"], metrics["random/f1"], metrics["random/accuracy"]) == (0, 0, 0.5)


def test_the_mean_weights_settings_equally(tmp_path: Path) -> None:
    labels(tmp_path, "random", label(1))
    labels(tmp_path, "popular", label(1, "no"), label(2, "no"), label(3, "yes"))
    labels(tmp_path, "adversarial", label(1, "no"))
    questions = POPE().read(tmp_path)
    assert [q.details["setting"] for q in questions] == ["random", "popular", "popular", "popular", "adversarial"]
    score = scored(POPE(), questions, ["Yes", "No", "Yes", "Yes", "Yes"])
    assert score.metrics["mean/accuracy"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert score.metrics["mean/f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert {item.cluster for item in score.items} == {"1.jpg"}


def test_lmms_eval_requires_the_bare_word_and_counts_labels_as_yes_ratio(tmp_path: Path) -> None:
    metrics = scored(POPE(), ask(tmp_path, "yyyn"), [" YES ", "No", "Yes, a cat", "no"], "lmms-eval").metrics
    assert metrics["pooled/accuracy"] == 0.5
    assert metrics["pooled/precision"] == 1
    assert metrics["pooled/recall"] == 0.5  # the unparsable answer is no false negative
    assert metrics["pooled/yes_ratio"] == 0.75  # the share of yes labels, whatever was said
    assert "mean/f1" not in metrics


def test_vlmevalkit_reads_whole_words_and_counts_unknown_as_not_yes(tmp_path: Path) -> None:
    said = ["Yes, a cat", "yes or no", "There is no cat", "Perhaps"]
    score = scored(POPE(), ask(tmp_path, "yynn"), said, "vlmevalkit")
    assert corrects(score) == [1, 0, 1, 0]
    assert score.metrics["pooled/precision"] == 100
    assert score.metrics["pooled/recall"] == 50  # here the unparsable answer to a yes is a false negative


def test_official_answers_are_paired_by_position(tmp_path: Path) -> None:
    questions = ask(tmp_path, "yn")
    path = tmp_path / "answers.json"
    rows = [{"question": f"Is there a thing{n} in the image?", "answer": text} for n, text in ((1, "Yes"), (2, "No"))]
    write_json_lines(path, rows)
    assert scored(POPE(), questions, ["Yes", "No"]) == POPE().score(questions, POPE().read_answers(path, questions))
    write_json_lines(path, rows[::-1])
    with pytest.raises(DataError, match="in the order of these labels"):
        POPE().read_answers(path, questions)
    write_json_lines(path, rows[:1])
    with pytest.raises(DataError, match="1 answers to 2 labels"):
        POPE().read_answers(path, questions)


def test_a_folder_of_official_answers_is_matched_by_setting(tmp_path: Path) -> None:
    ask(tmp_path / "labels", "yn", "random")
    ask(tmp_path / "labels", "ny", "popular")
    questions = POPE().read(tmp_path / "labels")
    for setting, texts in (("random", ("Yes", "No")), ("popular", ("No", "Yes"))):
        write_json_lines(tmp_path / "said" / f"model_{setting}.json", [{"answer": text} for text in texts])
    answers = POPE().read_answers(tmp_path / "said", questions)
    assert corrects(POPE().score(questions, answers)) == [1, 1, 1, 1]
    (tmp_path / "said" / "model_popular.json").unlink()
    with pytest.raises(DataError, match="no answers to popular"):
        POPE().read_answers(tmp_path / "said", questions)
    with pytest.raises(DataError, match="official answers of one setting"):
        POPE().read_answers(tmp_path / "said" / "model_random.json", questions)


def combined(folder: Path, *rows: tuple[int, str, str, str]) -> Path:
    path = folder / "questions.jsonl"
    write_json_lines(
        path,
        [
            {
                "question_id": number,
                "image": image,
                "text": f"Is there a {thing} in the image?\nAnswer the question using a single word or phrase.",
                "category": setting,
            }
            for number, setting, image, thing in rows
        ],
    )
    return path


def test_llavas_answers_are_joined_through_its_question_file(tmp_path: Path) -> None:
    labels(tmp_path, "random", label(1, "yes", "cat"), label(2, "no", "dog"))
    labels(tmp_path, "popular", label(1, "no", "cat"))
    # LLaVA's version misspells a word of the second question, and stands in another order.
    file = combined(
        tmp_path, (7, "popular", "1.jpg", "cat"), (8, "random", "1.jpg", "dog"), (9, "random", "1.jpg", "cat")
    )
    file.write_text(file.read_text().replace("dog in the image", "dog in the imange"))
    said = llava_lines(tmp_path / "a.jsonl", {"7": "Yes", "8": "No", "9": "No"})
    benchmark = POPE(questions=file)
    questions = benchmark.read(tmp_path)
    score = benchmark.score(questions, benchmark.read_answers(said, questions))
    assert {item.question_id: item.correct for item in score.items} == {"10000001": 0, "10000002": 1, "20000001": 0}
    only = benchmark.read(tmp_path / "coco_pope_random.json")
    assert len(benchmark.read_answers(said, only)) == 2  # those of the other setting are ignored
    with pytest.raises(DataError, match="does not ask"):
        benchmark.read_answers(llava_lines(tmp_path / "b.jsonl", {"1": "Yes"}), questions)


def test_without_it_they_are_joined_by_number_and_checked_by_prompt(tmp_path: Path) -> None:
    labels(tmp_path, "random", label(1, "yes", "cat"))
    labels(tmp_path, "popular", label(1, "no", "dog"))
    questions = POPE().read(tmp_path)
    prompts = {"10000001": "Is there a cat in the imange?\nAnswer", "20000001": "Is there a dog in the image?"}
    said = llava_lines(tmp_path / "a.jsonl", dict.fromkeys(prompts, "Yes"), prompts)
    assert [answer.question_id for answer in POPE().read_answers(said, questions)] == list(prompts)
    (only,) = POPE().read_answers(said, POPE().read(tmp_path / "coco_pope_random.json"))
    assert only.question_id == "10000001"
    llava_lines(said, dict.fromkeys(prompts, "Yes"), prompts | {"20000001": "Is there a cat in the image?"})
    with pytest.raises(DataError, match="Another version of the labels"):
        POPE().read_answers(said, questions)


def test_a_single_label_files_own_numbers_are_accepted(tmp_path: Path) -> None:
    questions = ask(tmp_path, "yn", "popular")
    prompts = {str(n): f"Is there a thing{n} in the image?" for n in (1, 2)}
    said = llava_lines(tmp_path / "a.jsonl", dict.fromkeys(prompts, "Yes"), prompts)
    assert [answer.question_id for answer in POPE().read_answers(said, questions)] == ["20000001", "20000002"]


def test_unanswered_labels_are_skipped_and_named(tmp_path: Path) -> None:
    questions = ask(tmp_path, "yyn")
    answers = [Answer(questions[0].id, "Yes"), Answer(questions[2].id, "Yes")]
    score = POPE().score(questions, answers)
    assert score.metrics["random/accuracy"] == 0.5
    assert score.missing == (questions[1].id,)
    assert len(score.items) == 2
    assert POPE().score(questions, answers, "lmms-eval").metrics["random/accuracy"] == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="no answer to any"):
        POPE().score(questions, [])


def test_unknown_answers_and_other_files_are_refused(tmp_path: Path) -> None:
    questions = ask(tmp_path, "y", "adversarial")
    said = llava_lines(
        tmp_path / "a.jsonl", {"1": "Yes", "5": "Yes"}, {"1": "Is there a thing1 in the image?", "5": "?"}
    )
    with pytest.raises(DataError, match="unknown"):
        POPE().score(questions, POPE().read_answers(said, questions))
    with pytest.raises(DataError, match="lacks label"):
        POPE().read(combined(tmp_path, (1, "random", "1.jpg", "cat")).rename(tmp_path / "questions_popular.json"))
    with pytest.raises(DataError, match="expected yes or no"):
        POPE().read(labels(tmp_path, "random", label(1, "maybe")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no POPE files"):
        POPE().read(tmp_path / "empty")


PUBLISHED = {
    "adversarial": (0.8446, 0.855, 0.433),
    "random": (0.8714, 0.8801, 0.417),
    "popular": (0.8625, 0.8743, 0.414),
}


@pytest.mark.parametrize(
    ("version", "joined", "unanswered"), [("llava-pin", False, 0), ("llava-pin", True, 0), ("head", True, 90)]
)
def test_published_figures_of_llava_13b(version: str, joined: bool, unanswered: int) -> None:
    folder = real("pope")
    benchmark = POPE(questions=folder / "questions-llava.jsonl" if joined else None)
    questions = benchmark.read(folder / version)
    answers = benchmark.read_answers(folder / "answers-llava-v1.5-13b.jsonl", questions)
    score = benchmark.score(questions, answers)
    for setting, (f1, accuracy, yes_ratio) in PUBLISHED.items():
        assert round(score.metrics[f"{setting}/f1"], 4) == f1
        assert round(score.metrics[f"{setting}/accuracy"], 4) == accuracy
        assert round(score.metrics[f"{setting}/yes_ratio"], 3) == yes_ratio
    assert round(100 * score.metrics["mean/f1"], 1) == 85.9
    assert len(score.missing) == unanswered
    assert len(score.items) == 8910


def test_the_repositorys_labels_do_not_accept_llavas_numbers() -> None:
    folder = real("pope")
    questions = POPE().read(folder / "head")
    assert len(questions) == 9000
    with pytest.raises(DataError, match="Give LLaVA's question file"):
        POPE().read_answers(folder / "answers-llava-v1.5-13b.jsonl", questions)
