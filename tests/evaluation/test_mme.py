"""MME's scoring against hand-worked cases and the figures of LaVIN's real responses."""

from pathlib import Path

import pytest
from benchmark_files import corrects, llava_lines, real, scored

from olivine.errors import DataError
from olivine.evaluation.benchmarks.mme import MME
from olivine.files import write_json_lines
from olivine.records import Answer, Question

ASK = "Is it a cat? Please answer yes or no."


def tool_file(folder: Path, task: str, *rows: tuple[str, ...]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{task}.txt"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def pair(folder: Path, task: str = "count") -> list[Question]:
    rows = (("1.jpg", ASK, "Yes"), ("1.jpg", "Is it a dog?  Please answer yes or no.", "No"))
    return MME().read(tool_file(folder, task, *rows))


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("YES.", "yes"),
        (" yes", "yes"),  # nothing is stripped, but the first four characters contain it
        ('"no"', "no"),
        ("  yes", None),
        ("know nothing", "no"),
        ("none of it", "no"),
        ("noyes", "no"),
        ("yes and no", "yes"),
        ("nyes", "yes"),  # contained anywhere, not only at the start
        ("Answer: yes", None),
        ("No\n", "no"),
        ("y", None),
        ("", None),
    ],
)
def test_the_official_prefix_rule(tmp_path: Path, response: str, label: str | None) -> None:
    assert corrects(scored(MME(), pair(tmp_path), [response, response])) == [label == "yes", label == "no"]


@pytest.mark.parametrize(
    ("variant", "response", "label"),
    [
        ("lmms-eval", "  Yes", "yes"),
        ("lmms-eval", "y", "yes"),
        ("lmms-eval", "N.", "no"),
        ("lmms-eval", "x", None),
        ("lmms-eval", ".k.n.ow", "no"),
        ("lmms-eval", "Answer: yes", None),
        ("vlmevalkit", "Answer: yes", "yes"),
        ("vlmevalkit", "know", None),
        ("vlmevalkit", "yes and no", None),
        ("vlmevalkit", "yes/no", None),
        ("vlmevalkit", "It is no.", "no"),
        ("vlmevalkit", "yes.it is", None),  # a period is deleted, which joins the words
        ("vlmevalkit", "yes,it is", "yes"),
    ],
)
def test_the_variants_parse_like_their_tools(tmp_path: Path, variant: str, response: str, label: str | None) -> None:
    score = scored(MME(), pair(tmp_path), [response, response], variant)
    assert corrects(score) == [label == "yes", label == "no"]


def test_points_are_accuracy_and_accuracy_plus(tmp_path: Path) -> None:
    rows = [(f"{n}.jpg", f"Question {n} {gold}?", gold) for n in range(4) for gold in ("Yes", "No")]
    questions = MME().read(tool_file(tmp_path, "OCR", *rows))
    score = scored(MME(), questions, ["Yes", "No", "Yes", "Yes", "No", "Yes", "Yes", "other"])
    assert score.metrics["OCR/acc"] == 50  # 4 of 8
    assert score.metrics["OCR/acc_plus"] == 25  # 1 of 4 images
    assert score.metrics["OCR"] == 75
    assert score.metrics["total"] == 75
    assert "perception" not in score.metrics  # nine of its ten sub-tasks are not here
    assert score.metrics["perception-1-of-10"] == score.metrics["total"]
    assert not any(name.startswith("cognition") for name in score.metrics)
    assert [item.cluster for item in score.items[:3]] == ["OCR/0.jpg", "OCR/0.jpg", "OCR/1.jpg"]


def test_cognition_sums_its_four_tasks(tmp_path: Path) -> None:
    tasks = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
    for task in tasks:
        pair(tmp_path, task)
    questions = MME().read(tmp_path)
    metrics = scored(MME(), questions, ["Yes", "No"] * 3 + ["Yes", "Yes"]).metrics
    assert metrics["cognition"] == 3 * 200 + 50
    assert "perception" not in metrics


def test_one_image_may_occur_twice(tmp_path: Path) -> None:
    rows = [("1.jpg", f"{n}?", gold) for n, gold in enumerate(("Yes", "No", "Yes", "No"))]
    questions = MME().read(tool_file(tmp_path, "count", *rows))
    assert len({question.id for question in questions}) == 4
    assert {question.image for question in questions} == {"count/1.jpg"}
    assert scored(MME(), questions, ["Yes", "No", "Yes", "Yes"]).metrics["count/acc_plus"] == 50


def test_prompts(tmp_path: Path) -> None:
    question, spaced = pair(tmp_path)
    assert question.prompt == "Is it a cat?\nAnswer the question using a single word or phrase."
    assert spaced.prompt == "Is it a dog?\nAnswer the question using a single word or phrase."
    assert MME().read(tmp_path, "original")[0].prompt == ASK


def test_the_release_folders_are_read_in_both_layouts(tmp_path: Path) -> None:
    lines = "Is it?  Please answer yes or no.\tYes\nIs it not? Please answer yes or no.\tNo\n\n"
    flat, nested = tmp_path / "count", tmp_path / "scene"
    for folder in (flat, nested / "images", nested / "questions_answers_YN"):
        folder.mkdir(parents=True)
    (flat / "2.txt").write_text(lines)
    (flat / "2.png").touch()
    (nested / "questions_answers_YN" / "a.txt").write_text(lines)
    (nested / "images" / "a.jpg").touch()
    questions = MME().read(tmp_path)
    assert [q.image for q in questions] == ["count/2.png"] * 2 + ["scene/images/a.jpg"] * 2
    assert [q.id for q in questions] == ["count/2.png/1", "count/2.png/2", "scene/a.jpg/1", "scene/a.jpg/2"]
    (flat / "2.txt").write_text("Is it?\tYes\n")
    with pytest.raises(DataError, match=r"2\.txt: 1 lines; expected two"):
        MME().read(tmp_path)


def test_llavas_answers_share_an_id_and_are_distinguished_by_the_prompt(tmp_path: Path) -> None:
    questions = pair(tmp_path)
    path = tmp_path / "a.jsonl"
    suffix = "\nAnswer the question using a single word or phrase."
    rows = [
        {"question_id": "count/1.png", "prompt": f"Is it a dog?{suffix}", "text": "No"},
        {"question_id": "count/1.png", "prompt": f"Is it a cat?{suffix}", "text": "No"},
    ]
    write_json_lines(path, rows)
    assert MME().read_answers(path, questions) == [Answer("count/1.jpg/2", "No"), Answer("count/1.jpg/1", "No")]
    write_json_lines(path, [rows[0] | {"prompt": "Is it a cow?"}])
    with pytest.raises(DataError, match=r"no question 'Is it a cow\?' about count/1\.png"):
        MME().read_answers(path, questions)


def test_answers_under_our_own_ids_are_read(tmp_path: Path) -> None:
    questions = pair(tmp_path)
    path = llava_lines(tmp_path / "a.jsonl", {q.id: "Yes" for q in questions})
    assert corrects(MME().score(questions, MME().read_answers(path, questions))) == [1, 0]


def test_result_files_give_the_responses(tmp_path: Path) -> None:
    questions = pair(tmp_path / "gold")
    tool_file(
        tmp_path / "said",
        "count",
        ("1.txt", ASK, "Yes", "yes"),
        ("1.txt", "Is it a dog? Please answer yes or no.", "No", ""),
    )
    tool_file(tmp_path / "said", "scene", ("1.txt", ASK, "Yes", "yes"), ("1.txt", ASK, "No", "no"))  # not asked
    answers = MME().read_answers(tmp_path / "said", questions)
    assert corrects(MME().score(questions, answers)) == [1, 0]
    with pytest.raises(DataError, match="3 tab-separated cells; expected 4"):
        MME().read_answers(tmp_path / "gold", questions)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 lines; expected two"):
        MME().read(tool_file(tmp_path, "count", ("1.jpg", "?", "Yes")))
    with pytest.raises(DataError, match=r"lines of 1\.jpg and 2\.jpg make a pair"):
        MME().read(tool_file(tmp_path, "count", ("1.jpg", "?", "Yes"), ("2.jpg", "?", "No")))
    with pytest.raises(DataError, match="gold answer 'Maybe'"):
        MME().read(tool_file(tmp_path, "count", ("1.jpg", "?", "Maybe"), ("1.jpg", "!", "No")))
    with pytest.raises(DataError, match="no MME files"):
        MME().read(tmp_path / "nowhere")


def test_a_missing_answer_is_refused_officially_and_wrong_elsewhere(tmp_path: Path) -> None:
    questions = pair(tmp_path)
    with pytest.raises(DataError, match="1 of 2 questions have no answer"):
        MME().score(questions, [Answer(questions[0].id, "yes")])
    score = MME().score(questions, [Answer(questions[0].id, "yes")], "lmms-eval")
    assert (score.metrics["count/acc"], score.metrics["count/acc_plus"]) == (50, 0)
    assert score.missing == (questions[1].id,)


@pytest.mark.parametrize(
    ("variant", "cognition"), [("official", 249.6429), ("lmms-eval", 249.6429), ("vlmevalkit", 248.9286)]
)
def test_the_figures_of_lavins_responses(variant: str, cognition: float) -> None:
    folder = real("mme/lavin")
    questions = MME().read(folder)
    score = MME().score(questions, MME().read_answers(folder, questions), variant)
    assert len(questions) == 2374
    assert round(score.metrics["perception"], 4) == 963.6114
    assert round(score.metrics["cognition"], 4) == cognition
    of_tasks = {name: round(score.metrics[name], 2) for name in ("existence", "count", "position", "color", "OCR")}
    assert of_tasks == {"existence": 185.0, "count": 88.33, "position": 63.33, "color": 75.0, "OCR": 107.5}


def test_lavins_responses_in_llavas_format_score_the_same(tmp_path: Path) -> None:
    folder = real("mme/lavin")
    questions = MME().read(folder)
    official = MME().read_answers(folder, questions)
    texts = {answer.question_id: answer.text for answer in official}
    rows = [
        {"question_id": question.cluster, "prompt": question.prompt, "text": texts[question.id]}
        for question in reversed(questions)
    ]
    write_json_lines(tmp_path / "llava.jsonl", rows)
    answers = MME().read_answers(tmp_path / "llava.jsonl", questions)
    assert MME().score(questions, answers) == MME().score(questions, official)
