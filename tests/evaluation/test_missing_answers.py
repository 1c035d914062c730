"""Questions without an answer: what each rule does with them, what can be asked for instead, and that it is said."""

import pytest
from benchmark_files import corrects, require_as_declared

from olivine.errors import DataError
from olivine.evaluation import benchmarks
from olivine.files import write_json, write_json_lines
from olivine.records import Answer, ItemState


def pope(folder):
    """Ten questions, half of them yes."""
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a thing {n}?", "label": "yes" if n % 2 else "no"}
        for n in range(1, 11)
    ]
    write_json_lines(folder / "coco_pope_random.json", rows)
    return folder / "coco_pope_random.json"


def exact(folder):
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": "?", "answer": "yes" if n % 2 else "no"} for n in range(1, 11)
    ]
    write_json_lines(folder / "questions.jsonl", rows)
    return folder / "questions.jsonl"


def mme(folder):
    rows = [f"{n}.jpg\tIs it {n} {k}?\t{gold}\n" for n in range(5) for k, gold in ((1, "Yes"), (2, "No"))]
    (folder / "existence.txt").write_text("".join(rows))
    return folder


def mmmu(folder):
    options = "['red', 'blue']"
    rows = [
        {"id": f"validation_Art_{n}", "question": "?", "options": options, "answer": "A", "question_type": kind}
        for n, kind in enumerate(["multiple-choice"] * 10, start=1)
    ]
    write_json(folder / "mmmu.json", rows)
    return folder / "mmmu.json"


def opened(name, data):
    """Return a benchmark, its questions, and right answers to the first eight of ten."""
    benchmark = benchmarks.get(name)
    questions = benchmark.read(data)
    assert len(questions) == 10
    return benchmark, questions, [Answer(q.id, q.references[0]) for q in questions[:8]]


@pytest.mark.parametrize(
    ("name", "write", "variant", "rule", "metric", "figure"),
    [
        ("pope", pope, "official", "excluded", "random/accuracy", 1.0),
        ("pope", pope, "lmms-eval", "wrong", "random/accuracy", 0.8),
        ("exact-match", exact, "official", "wrong", "accuracy", 80.0),
        ("mme", mme, "vlmevalkit", "wrong", "existence", 160.0),
        ("mmmu", mmmu, "official", "excluded", "accuracy", 1.0),
    ],
)
def test_a_score_says_what_its_rule_did(name, write, variant, rule, metric, figure, tmp_path):
    benchmark, questions, answers = opened(name, write(tmp_path))
    score = benchmark.score(questions, answers, variant)
    require_as_declared(benchmark, score)
    assert (score.missing_rule, len(score.missing)) == (rule, 2)
    assert score.metrics[metric] == pytest.approx(figure)
    assert score.summary()["missing_rule"] == rule
    states = [item.state for item in score.items]
    assert states == [ItemState.READ] * 8 + [ItemState.MISSING] * (0 if rule == "excluded" else 2)


@pytest.mark.parametrize(
    ("name", "write", "metric", "figure"),
    [
        ("pope", pope, "random/accuracy", 0.8),
        ("exact-match", exact, "accuracy", 80.0),
        ("mme", mme, "existence", 160.0),
        ("mmmu", mmmu, "accuracy", 0.8),
    ],
)
def test_missing_answers_can_be_wrong_or_refused_anywhere(name, write, metric, figure, tmp_path):
    benchmark, questions, answers = opened(name, write(tmp_path))
    benchmark.missing = "wrong"
    score = benchmark.score(questions, answers)
    require_as_declared(benchmark, score)
    assert score.metrics[metric] == pytest.approx(figure)
    assert (score.missing_rule, corrects(score)) == ("wrong", [1.0] * 8 + [0.0] * 2)
    benchmark.missing = "refuse"
    with pytest.raises(DataError, match=r"2 of 10 questions have no answer .* --missing refuse"):
        benchmark.score(questions, answers)


def test_a_missing_yes_is_a_false_negative_when_it_is_wrong(tmp_path):
    benchmark, questions, answers = opened("pope", pope(tmp_path))
    benchmark.missing = "wrong"
    metrics = benchmark.score(questions, answers).metrics
    assert (metrics["random/precision"], metrics["random/recall"]) == (1.0, 0.8)
    assert metrics["random/yes_ratio"] == 0.4


def test_an_official_rule_that_refuses_names_the_way_out(tmp_path):
    benchmark, questions, answers = opened("mme", mme(tmp_path))
    with pytest.raises(DataError, match=r"variant 'official' refuses that: .* \(--missing wrong\)"):
        benchmark.score(questions, answers)


@pytest.mark.parametrize(
    ("rule", "figure", "said"), [("official", "100.00", "in no figure"), ("wrong", "80.00", "wrong")]
)
def test_the_command_prints_percent_and_what_became_of_missing_answers(run, tmp_path, rule, figure, said):
    _, questions, answers = opened("pope", pope(tmp_path))
    path = tmp_path / "answers.jsonl"
    write_json_lines(path, [{"question_id": a.question_id, "text": a.text} for a in answers])
    command = ("score", "pope", "--annotations", tmp_path / "coco_pope_random.json", "--answers", path)
    code, out, err = run(*command, "--missing", rule)
    assert code == 0, err
    assert f"random/accuracy\t{figure}\t%" in out.splitlines()
    assert f"2 without an answer (first: '{questions[8].id}')" in err
    assert said in err
    code, _, err = run(*command, "--missing", "refuse")
    assert code == 2
    assert "--missing refuse" in err
