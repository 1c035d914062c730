"""Values of clusters: plain means of items, and any other metric through the benchmark's own scoring."""

from dataclasses import replace

import numpy as np
import pytest

from olivine.ablation.measures import FinishedEvaluation, QuestionSource, grouped, reported
from olivine.errors import DataError
from olivine.evaluation import benchmarks
from olivine.evaluation.answers import to_row
from olivine.evaluation.benchmarks.declaration import CORRECT, Metric
from olivine.evaluation.run import ANSWERS, write_score
from olivine.files import write_json_lines
from olivine.records import Answer
from olivine.statistics import ClusteredScores, ratio_values


def write_pope(folder, image_folder, *, seed=0):
    """POPE labels of one setting, six questions an image."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "question_id": number,
            "image": f"{number // 6}.jpg",
            "text": f"Is there a thing {number} in the image?",
            "label": str(random.choice(["yes", "no"])),
        }
        for number in range(6 * image_folder)
    ]
    path = folder / "coco_pope_random.json"
    write_json_lines(path, rows)
    return path


def evaluated(folder, name, data, *, right=0.7, seed=0):
    """Write an evaluation whose answers are right with a probability drawn per image."""
    benchmark = benchmarks.get(name)
    questions = benchmark.read(data)
    random = np.random.default_rng(seed)
    chance = {
        cluster: np.clip(random.normal(right, 0.2), 0, 1) for cluster in dict.fromkeys(q.cluster for q in questions)
    }
    answers = []
    for question in questions:
        truth = question.references[0]
        wrong = {"yes": "no", "no": "yes"}.get(truth, "something else")
        answers.append(Answer(question.id, truth if random.random() < chance[question.cluster] else wrong))
    score = benchmark.score(questions, answers)
    write_score(score, folder, questions, {})
    write_json_lines(folder / ANSWERS, [to_row(a, q, "m") for a, q in zip(answers, questions, strict=True)])
    return FinishedEvaluation(folder, QuestionSource(benchmark, data)), questions, answers


def test_f1_agrees_with_a_bootstrap_through_the_benchmark_itself(tmp_path):
    data = write_pope(tmp_path, 60)
    run, questions, answers = evaluated(tmp_path / "run", "pope", data)
    measure = Metric("mean/f1", "F1", scale=100.0)
    names, values = run.values(measure)
    assert len(names) == 60
    assert values.mean() == pytest.approx(run.value(measure))

    # Whole images are resampled, with their questions renamed so that the scorer accepts duplicates.
    benchmark, random = benchmarks.get("pope"), np.random.default_rng(1)
    by_cluster = {}
    for question, answer in zip(questions, answers, strict=True):
        by_cluster.setdefault(question.cluster, []).append((question, answer))
    clusters = list(by_cluster)
    scores = []
    for _ in range(400):
        drawn = [
            pair
            for position in random.integers(0, len(clusters), len(clusters))
            for pair in by_cluster[clusters[position]]
        ]
        again = [
            (replace(q, id=f"{n}/{q.id}"), replace(a, question_id=f"{n}/{q.id}")) for n, (q, a) in enumerate(drawn)
        ]
        scores.append(100 * benchmark.score([q for q, _ in again], [a for _, a in again]).metrics["mean/f1"])
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert error == pytest.approx(np.std(scores), rel=0.15)


def test_a_linear_metric_needs_no_scoring_and_equals_it(tmp_path):
    data = write_pope(tmp_path, 20)
    run, *_ = evaluated(tmp_path / "run", "pope", data)
    linear = run.values(CORRECT)[1]
    scored = run.values(Metric("mean/accuracy", "accuracy", scale=100.0))[1]
    assert linear == pytest.approx(scored)


def test_the_order_of_values_depends_on_names_alone(tmp_path):
    data = write_pope(tmp_path, 8)
    run, *_ = evaluated(tmp_path / "run", "pope", data)
    rows = (tmp_path / "run" / "items.jsonl").read_text().splitlines()
    (tmp_path / "run" / "items.jsonl").write_text("\n".join(reversed(rows)) + "\n")
    other = FinishedEvaluation(tmp_path / "run", QuestionSource(benchmarks.get("pope"), data))
    assert run.values(CORRECT)[0] == other.values(CORRECT)[0]
    assert run.values(CORRECT)[1] == pytest.approx(other.values(CORRECT)[1])


def test_mme_points_are_measured_over_images(tmp_path):
    data = tmp_path / "mme"
    data.mkdir()
    for task in ("existence", "count"):
        lines = [f"{n}.jpg\tIs there one {n} {q}?\t{gold}" for n in range(9) for q, gold in ((1, "Yes"), (2, "No"))]
        (data / f"{task}.txt").write_text("\n".join(lines) + "\n")
    run, *_ = evaluated(tmp_path / "run", "mme", data)
    total, correct = reported([run])
    assert (total.name, correct) == ("total", CORRECT)
    names, values = run.values(total)
    assert len(names) == 18
    assert values.mean() == pytest.approx(run.value(total))
    _, _, contributions, questions = run.clustered(total)
    assert contributions.sum() == pytest.approx(run.value(total))
    assert list(questions) == [2] * 18
    scores = ClusteredScores(values[None, None], contributions[None, None], questions, total.range)
    assert 0 <= scores.interval(0).low < run.value(total) < scores.interval(0).high <= 2800


def test_many_clusters_are_grouped_the_same_way_in_every_run():
    clusters = [f"u{n}" for n in range(1000)]
    groups = grouped(clusters)
    assert len(groups) == 250
    assert sorted(u for g in groups for u in g) == sorted(clusters)
    assert grouped(list(reversed(clusters))) == groups
    assert grouped(["b", "a"]) == [["a"], ["b"]]


def test_a_score_without_any_reported_metric_shows_the_share_of_right_answers():
    assert benchmarks.find("gqa").declares.reported(None, [{"another"}]) == (CORRECT,)


def test_images_are_weighted_by_their_number_of_questions():
    values = ratio_values(np.array([9.0, 0.0, 1.0]), np.array([10.0, 1.0, 1.0]))
    assert values.mean() == pytest.approx(10 / 12)


@pytest.mark.parametrize("line", ['{"question_id": "1", "cluster": "a", "correct": null}', '{"question_id": "1"}'])
def test_a_line_that_is_no_scored_item_is_refused(tmp_path, line):
    (tmp_path / "scores.json").write_text("{}")
    (tmp_path / "items.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"items.jsonl: a line is not a scored item"):
        FinishedEvaluation(tmp_path, QuestionSource(benchmarks.get("pope"), tmp_path))
