"""What benchmarks declare: complete, unambiguous, and what the page of benchmarks says.

That scores are as declared is checked in `benchmark_files.scored`, on every hand-worked case.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from olivine.evaluation import benchmarks
from olivine.evaluation.benchmarks.declaration import CORRECT, Declaration, Metric
from olivine.evaluation.benchmarks.described import one_line, page

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def test_the_page_of_benchmarks_is_current():
    written = page([benchmarks.find(name) for name in benchmarks.names()])
    assert PAGE.read_text(encoding="utf-8") == written, "run: olivine benchmarks --page docs/benchmarks.md"


@pytest.mark.parametrize("name", benchmarks.names())
def test_every_benchmark_declares_what_others_read(name):
    benchmark = benchmarks.find(name)
    declared = benchmark.declares
    assert declared.title
    assert declared.cluster
    assert declared.files
    assert "\n" not in one_line(benchmark)
    for variant in benchmark.variants:
        reported = [m for m in declared.metrics if m.reported and m.covers(m.name, variant)]
        assert reported, f"no headline under {variant}"
        assert all("*" not in metric.name for metric in reported)
        names = [metric.name for metric in reported]
        assert len(names) == len(set(names)), f"two metrics of one name under {variant}"
    known = {variant for metric in declared.metrics for variant in metric.variants or ()}
    assert known <= set(benchmark.variants)


@pytest.mark.parametrize("name", benchmarks.names())
def test_a_name_finds_its_own_metric_before_a_family_that_it_would_fit(name):
    declared = benchmarks.find(name).declares
    for metric in declared.metrics:
        for variant in metric.variants or (None,):
            assert declared.metric(metric.name, variant) == metric


def test_families_and_variants_decide_which_metric_a_name_is():
    whole = Metric("a/b", "one")
    percent = Metric("a/*", "family", variants=("x",))
    declared = Declaration("T", (whole, percent, replace(percent, scale=100.0, variants=("y",))), "image", "choice")
    assert declared.metric("a/b", "x") is whole
    assert declared.metric("a/c", "x").scale == 1.0
    assert declared.metric("a/c", "y").shown(0.5) == 50.0
    assert declared.metric("b", "x") is None
    assert declared.reported("x", [["a/b"]]) == (CORRECT,)
