"""Every option of every benchmark can be given as text."""

import inspect
from pathlib import Path

import pytest

from olivine.errors import RequestError
from olivine.evaluation import benchmarks
from olivine.evaluation.benchmarks.described import describe
from olivine.evaluation.benchmarks.options import checked_options, options_of, parse_options

#: What is no text, number or path: made elsewhere (judges), or for callers in Python alone.
_OTHER = {"judge", "verdicts"}


@pytest.mark.parametrize("name", benchmarks.names())
def test_every_parameter_of_the_constructor_is_an_option_or_a_judge(name):
    benchmark = type(benchmarks.get(name))
    assert set(inspect.signature(benchmark).parameters) - set(options_of(benchmark)) <= _OTHER
    lines = describe(benchmark)
    assert lines[0].startswith(f"{name}: ")
    assert len(lines[0]) > len(name) + 10
    assert all(option in "\n".join(lines) for option in options_of(benchmark))


def test_values_are_converted_to_the_benchmarks_types():
    mmvet = type(benchmarks.get("mmvet"))
    assert parse_options(mmvet, ["subset=ids.json", "judge_runs=3"]) == {"subset": Path("ids.json"), "judge_runs": 3}
    refcoco = type(benchmarks.get("refcoco"))
    assert parse_options(refcoco, ["boxes=xywh"]) == {"boxes": "xywh"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["box=xywh"], "Did you mean 'boxes'"),
        (["boxes"], "expected KEY=VALUE"),
        (["boxes=a", "boxes=b"], "given twice"),
    ],
)
def test_wrong_options_are_refused(given, words):
    with pytest.raises(RequestError, match=words):
        parse_options(type(benchmarks.get("refcoco")), given)


def test_a_value_of_another_type_is_refused():
    with pytest.raises(RequestError, match=r"options judge_runs: expected a number; got 'many'"):
        checked_options(type(benchmarks.get("mmvet")), {"judge_runs": "many"}, "benchmarks.mmvet.options")


def test_a_benchmark_without_options_says_so():
    with pytest.raises(RequestError, match="mme has no options"):
        parse_options(type(benchmarks.get("mme")), ["x=1"])
