"""What needs no model: the rule that matches elements, the majority-class baseline, and the page of examples."""

import pytest
from benchmark_files import scored
from PIL import Image

from olivine.errors import RequestError
from olivine.evaluation.benchmarks import get
from olivine.evaluation.example_page import Shelf, write_page
from olivine.evaluation.majority_baseline import majority, majority_baseline_answers
from olivine.evaluation.rule_judge import RULE, RuleJudge
from olivine.files import write_json, write_json_lines
from olivine.records import Answer
from olivine.testing import write_images


@pytest.mark.parametrize(
    ("reference", "said", "grade"),
    [
        ("red", "It is red.", 1.0),
        ("red", "It is RED", 1.0),
        ("red", "a hundred reddish ones", 0.0),
        ("red<AND>blue", "blue and green", 0.5),
        ("2<OR>two", "There are two of them.", 1.0),
        ("2<OR>two", "There are 12.", 0.0),
        ("ball<AND>2<OR>two<AND>cup", "a cup, a ball", 2 / 3),
        ("top left", "in the top  left corner", 1.0),
        ("top left", "left, at the top", 0.0),
        ("K2", "(k2)", 1.0),
        ("a+b", "it says a+b", 1.0),
        ("red", "", 0.0),
    ],
)
def test_the_rule_finds_whole_words(reference, said, grade):
    reply, given = RuleJudge().grade(reference, said)
    assert given == pytest.approx(grade)
    assert reply.model == RULE


def mmvet(folder):
    row = {"imagename": "0.png", "question": "?", "capability": ["rec"], "imagesource": "x"}
    write_json(folder / "mm-vet.json", {"v1_0": {**row, "answer": "red<AND>blue"}, "v1_1": {**row, "answer": "two"}})
    return folder


def test_scores_by_the_rule_are_never_official(tmp_path):
    benchmark = get("mmvet", judge=RuleJudge())
    questions = benchmark.read(mmvet(tmp_path))
    score = scored(benchmark, questions, ["red", "two"])
    assert (score.variant, score.metrics["total"]) == ("rule", 75.0)
    assert benchmark.judged_by("rule") == {"judge": "rule: elements found"}
    assert scored(benchmark, questions, ["red", "two"], "rule").variant == "rule"
    with pytest.raises(RequestError, match="'official' does not go with this judge"):
        scored(benchmark, questions, ["red", "two"], "official")
    with pytest.raises(RequestError, match="'rule' does not go with this judge"):
        scored(get("mmvet"), questions, ["red", "two"], "rule")
    with pytest.raises(RequestError, match="--judge-model rule"):
        scored(get("mmvet"), questions, ["red", "two"])


def test_stored_grades_stay_official_beside_a_rule(tmp_path):
    questions = get("mmvet").read(mmvet(tmp_path))
    write_json(tmp_path / "grades.json", {question.id: {"score": [0.5]} for question in questions})
    benchmark = get("mmvet", judge=RuleJudge(), grades=tmp_path / "grades.json")
    assert benchmark.score(questions, [Answer(q.id, "x") for q in questions]).variant == "official"
    assert benchmark.judged_by("official") == {"grades": "grades.json"}


def pope(folder):
    for setting, labels in (("random", ["yes", "no", "no"]), ("popular", ["yes", "yes", "no"])):
        rows = [
            {"question_id": n, "image": f"{n}.png", "text": f"Is there a thing {n} in the image?", "label": label}
            for n, label in enumerate(labels, start=1)
        ]
        write_json_lines(folder / f"coco_pope_{setting}.json", rows)
    return folder


def test_the_majority_class_is_counted_for_each_kind_of_question(tmp_path):
    benchmark = get("pope")
    score = majority(benchmark, benchmark.read(pope(tmp_path)))
    assert score.metrics["random/accuracy"] == pytest.approx(2 / 3)
    assert score.metrics["random/yes_ratio"] == 0
    assert score.metrics["popular/yes_ratio"] == 1
    assert majority_baseline_answers("pope", tmp_path) == {"majority": dict(score.metrics)}
    assert majority_baseline_answers("mmvet", mmvet(tmp_path / "vet"))["majority"]["total"] == 50.0


def test_a_page_shows_images_questions_and_right_answers(tmp_path):
    names = write_images(tmp_path / "images", 3, side=20)
    rows = [
        {"question_id": n, "image": names[n // 2], "text": "a | b\nc <i>", "answer": f"answer {n}"} for n in range(6)
    ]
    write_json_lines(tmp_path / "questions.jsonl", rows)
    page = tmp_path / "docs" / "page.md"
    image_folder = [Image.new("RGB", (96, 96))] * 9
    write_page(page, "Title", "Opening.", image_folder, [Shelf(get("exact-match"), tmp_path / "questions.jsonl")])
    text = page.read_text()
    assert text.startswith("# Title\n\nOpening.\n\n![scenes](page/scenes.jpg)\n\n## exact-match")
    assert "| 1 | a \\| b<br>c &lt;i>" in text
    assert "`answer 5`" in text
    with Image.open(page.parent / "page" / "scenes.jpg") as sheet:
        assert sheet.size == (8 * 200 - 8, 2 * 200 - 8)
    with Image.open(page.parent / "page" / "exact-match.jpg") as sheet:
        assert sheet.size == (4 * 200 - 8, 192)
