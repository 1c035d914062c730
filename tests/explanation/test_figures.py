"""The table of methods and the split of a difference, by hand; linear maps that are exactly known."""

import pytest
import torch

from olivine.explanation.difference_split import PARTS, difference_split
from olivine.explanation.linear_map import fit_linear_map
from olivine.explanation.method_table import method_table
from olivine.explanation.table_lines import table_lines


def row(identity, cluster, deletions, *, correct=1.0, objects=1, pointing=None):
    methods = {}
    for name, deletion in deletions.items():
        methods[name] = {"seconds": 0.1, "deletion": deletion, "insertion": 0.5}
        if pointing is not None:
            methods[name]["pointing"] = pointing
    return {
        "question_id": identity, "cluster": cluster, "correct": correct, "objects": objects, "decided_by_image": True,
        "probability": {"with_image": 0.9, "blind": 0.2, "other_image": 0.3},
        "random_orders": {"deletion": 0.6, "insertion": 0.4}, "methods": methods,
    }  # fmt: skip


ROWS = [
    row("1", "a", {"one": 0.2, "two": 0.7}, pointing=1.0),
    row("2", "a", {"one": 0.3, "two": 0.5}, correct=0.0),
    row("3", "b", {"one": 0.1, "two": 0.6}, objects=2),
    {"question_id": "4", "cluster": "b", "skipped": "it answers nothing", "correct": None},
]


def test_means_are_over_questions_and_differences_are_paired():
    table = method_table(ROWS)
    one, two = (table["groups"]["all"]["methods"][name] for name in ("one", "two"))
    assert one["deletion"]["value"] == pytest.approx(40.0)
    assert two["deletion"]["value"] == pytest.approx(0.0)
    assert two["deletion"]["difference"]["value"] == pytest.approx(40.0)
    assert two["worse"]["value"] == pytest.approx(100 / 3)
    assert one["pointing"]["value"] == pytest.approx(100.0)
    assert table["skipped"] == 1
    assert {name: group["questions"] for name, group in table["groups"].items()} == {
        "all": 3, "right": 2, "wrong": 1, "one object": 2, "two objects": 1, "decided by the image": 3
    }  # fmt: skip
    lines = table_lines(table)
    assert any(line.startswith("two ") and "0.0 [" in line for line in lines)
    assert lines[-1] == "1 questions skipped: the model answers nothing"


def test_intervals_cover_the_mean_and_use_clusters():
    rows = [row(str(n), f"image {n // 2}", {"one": 0.3 + 0.02 * (n % 7)}) for n in range(40)]
    figure = method_table(rows)["groups"]["all"]["methods"]["one"]["deletion"]
    assert figure["low"] < figure["value"] < figure["high"]


def test_a_split_sums_to_the_difference_in_both_orders():
    ids = [str(n) for n in range(4)]

    def answers(own, own_tower, tower, connector, other):
        values = {"own": own, "own_tower": own_tower, "tower": tower, "connector": connector, "other": other}
        return {name: dict(zip(ids, map(float, bits), strict=True)) for name, bits in values.items()}

    first = answers("1111", "1111", "1100", "1100", "1000")
    second = answers("1000", "1000", "1010", "1110", "1111")
    split = difference_split(dict(zip(ids, "aabb", strict=True)), first, second)
    assert split["difference"]["value"] == -75.0
    assert [split["parts"][part]["first as host"]["value"] for part in PARTS] == [0, -50, 0, -25]
    assert [split["parts"][part]["second as host"]["value"] for part in PARTS] == [0, -25, -25, -25]
    assert split["parts"]["tower"]["gap between the orders"]["value"] == -25


def test_a_linear_relation_is_found_exactly_and_another_is_not():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, 8, generator=draw)
    weight, bias = torch.randn(8, 6, generator=draw), torch.randn(6, generator=draw)
    found = fit_linear_map(features, features @ weight + bias)
    assert found.explained > 0.9999
    torch.testing.assert_close(found(features), features @ weight + bias, atol=1e-2, rtol=1e-2)
    assert fit_linear_map(features, torch.randn(40, 5, 6, generator=draw)).explained < 0.1
