"""The pairwise design covers every permitted pair, contains no other, and is close to the minimum size."""

from itertools import combinations, product

import pytest
from pairwise import pairwise_design
from test_pairs import DESIGN, FACTORS, permitted


def covered(design):
    return {frozenset(pair) for each in design for pair in combinations(each.items(), 2)}


def every_pair(factors, allowed=lambda a, b: True):
    named = {factor: [(factor, level) for level in levels] for factor, levels in factors.items()}
    return {
        frozenset(pair)
        for first, second in combinations(named, 2)
        for pair in product(named[first], named[second])
        if allowed(*pair)
    }


@pytest.mark.parametrize("sizes", [(2, 2, 2), (9, 9, 6), (3, 5, 4, 2)], ids=str)
def test_all_pairs_are_covered(sizes):
    factors = {f"f{n}": [f"v{k}" for k in range(size)] for n, size in enumerate(sizes)}
    design = pairwise_design(factors)
    assert covered(design) == every_pair(factors)
    largest, second = sorted(sizes)[-2:]
    assert largest * second <= len(design) <= 1.4 * largest * second
    assert design == pairwise_design(factors)


def test_pairs_that_are_not_permitted_do_not_occur():
    factors = {"a": ["1", "2", "3"], "b": ["1", "2", "3"], "c": ["1", "2"]}

    def allowed(one, other):
        return {one, other} != {("a", "1"), ("c", "2")}

    design = pairwise_design(factors, allowed)
    assert covered(design) == every_pair(factors, allowed)
    assert frozenset({("a", "1"), ("c", "2")}) not in covered(design)


def test_a_factor_without_a_permitted_level_is_named():
    with pytest.raises(ValueError, match="no level of c may stand beside"):
        pairwise_design({"a": ["1"], "b": ["1"], "c": ["1"]}, lambda one, other: "c" not in (one[0], other[0]))


def test_the_conformance_design_covers_every_pair_of_parts():
    assert covered(DESIGN) == every_pair(FACTORS, permitted)
    assert len(DESIGN) <= 90
