"""Metrics from counts equal scoring the remaining items again, for every benchmark and variant that has counts."""

import numpy as np
import pytest

from olivine.errors import DataError
from olivine.evaluation import benchmarks
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.counted import CountedBenchmark
from olivine.records import Answer, Question

LETTERS = ("A", "B", "C", "D", "a", "no idea", "")
WORDS = ("yes", "no", "Yes.", "No, there is not", "maybe", "")


def _pope(number):
    setting = ("random", "popular", "adversarial")[number % 3]
    return Question(str(number), "?", f"{number // 6}.png", f"{number // 6}.png", ("yes", "no")[number % 2 :][:1], {
        "setting": setting
    })  # fmt: skip


def _mme(number):
    task = ("existence", "count", "code_reasoning")[number // 2 % 3]
    cluster = f"{task}/{number // 2}"
    return Question(str(number), "?", "x.png", cluster, (("yes", "no")[number % 2],), {"task": task, "question": "?"})


def _mmvp(number):
    details = {"options": {"A": "a cat", "B": "a dog"}, "question": "?", "answer": "(a)"}
    return Question(str(number + 1), "?", "x.png", f"pair-{number // 2}", (("A", "B")[number % 2],), details)


def _scienceqa(number):
    groups = [
        ("subject", ("natural science", "language science")[number % 2]),
        ("grade", f"{number % 4}"),
        ("other", "x"),
    ]
    details = {"groups": groups, "choices": ["one", "two", "three"]}
    return Question(str(number), "?", "x.png" if number % 3 else None, str(number), ("ABC"[number % 3],), details)


MAKERS = {"pope": (_pope, WORDS), "mme": (_mme, WORDS), "mmvp": (_mmvp, LETTERS), "scienceqa": (_scienceqa, LETTERS)}
CASES = [(name, variant) for name in MAKERS for variant in benchmarks.get(name).variants if variant != "judge"]


def test_every_benchmark_with_counts_is_tested():
    counting = {name for name in benchmarks.names() if isinstance(benchmarks.get(name), CountedBenchmark)}
    assert counting == set(MAKERS)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_removing_clusters_from_counts_equals_scoring_the_rest(name, variant):
    make, texts = MAKERS[name]
    benchmark = benchmarks.get(name)
    questions = [make(number) for number in range(60)]
    random = np.random.default_rng(3)
    answers = [Answer(q.id, texts[random.integers(len(texts))]) for q in questions]
    clusters = list(dict.fromkeys(q.cluster for q in questions))
    groups = [{clusters[0]}, set(clusters[1:3]), {clusters[-1]}, set(clusters[::2])]
    try:
        expected = Benchmark.score_without(benchmark, questions, answers, variant, groups)
    except DataError as refused:
        pytest.skip(f"{variant} refuses these answers: {refused}")
    found = benchmark.score_without(questions, answers, variant, groups)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-12, abs=1e-12)
