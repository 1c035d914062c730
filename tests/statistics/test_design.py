"""Contrasts: what full, one-at-a-time, half-fraction and incomplete designs can estimate, and with which weights."""

import numpy as np
import pytest

from olivine.statistics import aliased, all_configurations, contrasts, half_fraction, one_at_a_time

AXES = {"a": ["0", "1"], "b": ["0", "1"], "c": ["0", "1"]}


def found(configurations, axes=AXES):
    return {c.name: c.weights for c in contrasts(axes, configurations)}


def test_a_full_factorial_estimates_main_effects_and_all_interactions():
    configurations = all_configurations(AXES)
    weights = found(configurations)
    assert list(weights) == ["a=1", "b=1", "c=1", "a=1 × b=1", "a=1 × c=1", "b=1 × c=1", "a=1 × b=1 × c=1"]
    assert weights["b=1"] == pytest.approx(
        [(1 if configuration[1] == "1" else -1) / 4 for configuration in configurations]
    )
    assert all(w.sum() == pytest.approx(0) for w in weights.values())
    # By definition: the effect of a where b is on, minus that where b is off, averaged over c.
    value = np.array([10 * (configuration == ("1", "1", "0")) for configuration in configurations])
    assert weights["a=1 × b=1"] @ value == pytest.approx(5)


def test_three_levels_are_each_compared_with_the_first():
    axes = {"fit": ["pad", "squash", "letterbox"], "b": ["0", "1"]}
    configurations = all_configurations(axes)
    value = np.array(
        [
            {"pad": 1, "squash": 4, "letterbox": -2}[configuration[0]] + 100 * (configuration[1] == "1")
            for configuration in configurations
        ]
    )
    weights = found(configurations, axes)
    assert weights["fit=squash"] @ value == pytest.approx(3)
    assert weights["fit=letterbox"] @ value == pytest.approx(-3)
    assert weights["b=1"] @ value == pytest.approx(100)


def test_one_at_a_time_compares_with_the_base_configuration():
    configurations = one_at_a_time(AXES)
    weights = found(configurations)
    assert len(configurations) == 4
    assert list(weights) == ["a=1", "b=1", "c=1"]
    assert weights["c=1"] == pytest.approx([-1, 0, 0, 1])


def test_a_half_fraction_estimates_main_effects():
    configurations = half_fraction(AXES)
    assert len(configurations) == 4
    weights = found(configurations)
    assert list(weights) == ["a=1", "b=1", "c=1"]
    assert weights["a=1"] == pytest.approx(
        [0.5 if configuration[0] == "1" else -0.5 for configuration in configurations]
    )


def test_a_missing_configuration_loses_its_interactions_and_no_main_effect():
    configurations = [configuration for configuration in all_configurations(AXES) if configuration != ("1", "1", "1")]
    weights = found(configurations)
    assert {"a=1", "b=1", "c=1", "a=1 × b=1"} <= weights.keys()
    assert "a=1 × b=1 × c=1" not in weights
    # If effects are additive, the estimate is the true one.
    value = np.array([2 * (c[0] == "1") + 5 * (c[1] == "1") - (c[2] == "1") for c in configurations])
    assert weights["b=1"] @ value == pytest.approx(5)


def test_aliased_effects_are_reported():
    together = [("0", "0", "0"), ("1", "1", "0"), ("0", "0", "1"), ("1", "1", "1")]
    assert aliased(AXES, together) == ["a=1", "b=1"]
    assert list(found(together)) == ["c=1"]
    assert aliased(AXES, all_configurations(AXES)) == []
    assert aliased(AXES, []) == ["a=1", "b=1", "c=1"]
