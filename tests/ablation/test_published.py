"""The paper's table 1, shipped as data, and the effects of its figure 1 that follow from it."""

import pytest

from olivine.ablation.published import table
from olivine.errors import RequestError

BASELINE_TO = {"gqa": "gqa", "pope": "pope_accuracy", "scienceqa": "scienceqa"}


@pytest.mark.parametrize("in_figure", BASELINE_TO)
def test_main_effects_are_those_of_figure_1(in_figure):
    paper = table("paper")
    (metric,) = [m for m in paper.metrics if m.key == BASELINE_TO[in_figure]]
    effects = {c.levels[0]: effect / 100 for c, effect in paper.effects(metric) if c.order == 1}
    assert effects.keys() == paper.stated.keys()
    for axis_and_level, effect in effects.items():
        assert effect == pytest.approx(paper.stated[axis_and_level][in_figure], abs=0.001)


def test_the_table_holds_what_was_printed():
    paper = table("llava-gemma")
    assert len(paper.configurations) == 8
    assert len(set(paper.configurations)) == 8
    by_key = {m.key: dict(zip(paper.configurations, m.values, strict=True)) for m in paper.metrics}
    assert by_key["mme_cognition"]["gemma-2b-it", "clip", "no"] == 249
    assert by_key["pope_f1"]["gemma-7b-it", "dinov2", "no"] == pytest.approx(56.7)
    # Pair accuracies are this many of 150, to three decimals.
    assert all(abs(value * 1.5 - round(value * 1.5)) < 0.08 for value in by_key["mmvp"].values())
    assert "arXiv:2404.01331" in paper.source


def test_effects_not_in_the_paper_follow_too():
    paper = table("paper")
    mmvp = next(m for m in paper.metrics if m.key == "mmvp")
    effects = {c.name: e for c, e in paper.effects(mmvp)}
    assert effects["align=no"] == pytest.approx(-7.5, abs=0.05)
    assert effects["language=gemma-7b-it"] == pytest.approx(7.2, abs=0.05)
    assert "language=gemma-7b-it × vision=dinov2" in effects


def test_an_unknown_table_is_answered_with_the_nearest():
    with pytest.raises(RequestError, match="Did you mean 'paper'"):
        table("papers")
