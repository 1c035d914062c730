"""Contrasts: what full, star-shaped, halved and holed designs can tell, and with which weights."""

import numpy as np
import pytest

from olivine.statistics import all_cells, contrasts, half, one_at_a_time, untold

AXES = {"a": ["0", "1"], "b": ["0", "1"], "c": ["0", "1"]}


def found(cells, axes=AXES):
    return {c.name: c.weights for c in contrasts(axes, cells)}


def test_a_full_factorial_tells_main_effects_and_all_interactions():
    cells = all_cells(AXES)
    weights = found(cells)
    assert list(weights) == ["a=1", "b=1", "c=1", "a=1 × b=1", "a=1 × c=1", "b=1 × c=1", "a=1 × b=1 × c=1"]
    assert weights["b=1"] == pytest.approx([(1 if cell[1] == "1" else -1) / 4 for cell in cells])
    assert all(w.sum() == pytest.approx(0) for w in weights.values())
    # One way to put it: the effect of a where b is on, less that where it is off, averaged over c.
    value = np.array([10 * (cell == ("1", "1", "0")) for cell in cells])
    assert weights["a=1 × b=1"] @ value == pytest.approx(5)


def test_three_levels_are_each_compared_with_the_first():
    axes = {"fit": ["pad", "squash", "letterbox"], "b": ["0", "1"]}
    cells = all_cells(axes)
    value = np.array([{"pad": 1, "squash": 4, "letterbox": -2}[cell[0]] + 100 * (cell[1] == "1") for cell in cells])
    weights = found(cells, axes)
    assert weights["fit=squash"] @ value == pytest.approx(3)
    assert weights["fit=letterbox"] @ value == pytest.approx(-3)
    assert weights["b=1"] @ value == pytest.approx(100)


def test_one_at_a_time_compares_with_the_base_cell():
    cells = one_at_a_time(AXES)
    weights = found(cells)
    assert len(cells) == 4
    assert list(weights) == ["a=1", "b=1", "c=1"]
    assert weights["c=1"] == pytest.approx([-1, 0, 0, 1])


def test_half_a_factorial_tells_main_effects():
    cells = half(AXES)
    assert len(cells) == 4
    weights = found(cells)
    assert list(weights) == ["a=1", "b=1", "c=1"]
    assert weights["a=1"] == pytest.approx([0.5 if cell[0] == "1" else -0.5 for cell in cells])


def test_a_missing_cell_takes_its_interactions_and_no_main_effect():
    cells = [cell for cell in all_cells(AXES) if cell != ("1", "1", "1")]
    weights = found(cells)
    assert {"a=1", "b=1", "c=1", "a=1 × b=1"} <= weights.keys()
    assert "a=1 × b=1 × c=1" not in weights
    # Where effects simply add up, the estimate is the true one.
    value = np.array([2 * (c[0] == "1") + 5 * (c[1] == "1") - (c[2] == "1") for c in cells])
    assert weights["b=1"] @ value == pytest.approx(5)


def test_what_cannot_be_told_is_said():
    together = [("0", "0", "0"), ("1", "1", "0"), ("0", "0", "1"), ("1", "1", "1")]
    assert untold(AXES, together) == ["a=1", "b=1"]
    assert list(found(together)) == ["c=1"]
    assert untold(AXES, all_cells(AXES)) == []
    assert untold(AXES, []) == ["a=1", "b=1", "c=1"]
