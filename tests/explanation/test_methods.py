"""Every registered method: finds a planted signal, has a score for every token, does not depend on its batch."""

import pytest
import torch
from planted import planted_case, random_case

from olivine.errors import RequestError
from olivine.explanation import case as case_module
from olivine.explanation.faithfulness import areas, order_of
from olivine.explanation.methods.integrated_gradients import IntegratedGradients
from olivine.explanation.methods.registry import chosen_methods, compared_names, method, method_names
from olivine.explanation.methods.relevancy import Relevancy
from olivine.explanation.randomised import randomise, rank_correlation
from olivine.model.recorded_attention import AttentionRecord
from olivine.testing import tiny_vlm

#: The logit lens reads image tokens themselves and claims nothing about what the answer uses.
FAITHFUL = [name for name in method_names() if not method(name).control and name != "logit-lens"]


@pytest.fixture(scope="module")
def vlm():
    return tiny_vlm(tower="clip")


@pytest.mark.parametrize("name", FAITHFUL)
@pytest.mark.parametrize("at", [0, 6])
def test_a_planted_signal_is_found(name, at):
    case = planted_case(at)
    assert int(method(name).token_scores(case).argmax()) == at


def test_controls_do_not_find_it():
    cases = [planted_case(at) for at in (0, 3, 6, 9, 12, 15)]
    for name in ("random", "centre"):
        found = [
            int(method(name).token_scores(case).argmax()) == at
            for at, case in zip((0, 3, 6, 9, 12, 15), cases, strict=True)
        ]
        assert sum(found) < 3


@pytest.mark.parametrize("name", method_names())
def test_every_token_has_a_score_and_again_the_same(vlm, name):
    case = random_case(vlm)
    scores = method(name).token_scores(case)
    assert scores.shape == (len(case.features),)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert torch.equal(scores, method(name).token_scores(case))


@pytest.mark.parametrize("name", method_names())
def test_the_micro_batch_changes_no_map(vlm, name, monkeypatch):
    case = random_case(vlm)
    together = method(name).token_scores(case)
    monkeypatch.setattr(case_module, "BUDGET", 1)
    alone = method(name).token_scores(random_case(vlm))
    assert case.micro_batch == 1
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", method_names())
def test_several_tokens_are_explained_together(vlm, name):
    scores = method(name).token_scores(random_case(vlm, tokens=(0, 1)))
    assert torch.isfinite(scores).all()
    if not method(name).control and name != "greedy":
        assert not torch.equal(scores, method(name).token_scores(random_case(vlm, tokens=(0,))))


def test_integrated_gradients_sum_to_the_difference(vlm):
    case = random_case(vlm)
    image, baseline = case.scores(torch.stack([case.features, case.baseline])).tolist()
    total = float(IntegratedGradients(steps=200).token_scores(case).sum())
    assert abs(image - baseline) > 0.05, "the image must make a difference, or the test cannot fail"
    assert total == pytest.approx(image - baseline, abs=0.01)


@pytest.mark.parametrize("name", ["relevancy", "relevancy-log-probability"])
def test_relevancy_is_rules_5_and_6_on_whole_matrices(vlm, name):
    """As Chefer et al. write them, with the whole relevancy matrix instead of one row."""
    case = random_case(vlm)
    record = AttentionRecord()
    score = case.scores(case.features[None].requires_grad_(), method(name).scored, record)
    gradients = torch.autograd.grad(score.sum(), record.weights)
    relevancy = torch.eye(len(case.ids))
    for weights, gradient in zip(record.weights, gradients, strict=True):
        relevancy = relevancy + (weights.detach() * gradient)[0].clamp(min=0).mean(dim=0) @ relevancy
    theirs = relevancy[case.predicting[0], case.image_positions]
    torch.testing.assert_close(method(name).token_scores(case), theirs)
    assert theirs.std() > 0
    assert issubclass(type(method(name)), Relevancy)


def test_attention_weights_are_asked_for_only_where_needed(vlm, monkeypatch):
    asked = []
    real = AttentionRecord.__init__
    monkeypatch.setattr(AttentionRecord, "__init__", lambda self, *a, **k: (asked.append(1), real(self, *a, **k))[1])
    for name in method_names():
        asked.clear()
        method(name).token_scores(random_case(vlm))
        assert bool(asked) is (method(name).work(4).weights != "none"), name


def test_random_weights_change_what_depends_on_them():
    case = planted_case(6)
    names = [name for name in FAITHFUL if name != "greedy"]
    trained = {name: method(name).token_scores(case) for name in (*names, "centre")}
    randomise(case.vlm)
    for name, scores in trained.items():
        agreement = rank_correlation(case.grid, scores, method(name).token_scores(case))
        assert (agreement > 0.99) is (name == "centre"), f"{name}: {agreement}"


def test_no_map_beats_the_greedy_search_on_deletion():
    case = planted_case(9)
    maps = {name: method(name).token_scores(case) for name in FAITHFUL}
    by_method, chance = areas(case, maps)
    assert min(by_method.values()) >= (by_method["greedy"][0] - 1e-6, 0)
    assert by_method["greedy"][0] < chance[0] / 2


def test_equal_scores_are_ordered_at_random_and_always_so():
    case = planted_case(3)
    order = order_of(case, torch.zeros(16))
    assert sorted(order.tolist()) == list(range(16))
    assert order.tolist() != list(range(16))
    assert torch.equal(order, order_of(case, torch.zeros(16)))


def test_names_are_checked():
    assert [one.name for one in chosen_methods("all")] == list(compared_names())
    assert "greedy" not in compared_names()
    with pytest.raises(RequestError, match="Did you mean 'occlusion'"):
        chosen_methods("oclusion")
    with pytest.raises(RequestError, match="given more than once"):
        chosen_methods("all,rise")


@pytest.mark.parametrize("name", method_names())
def test_half_precision_has_nearly_the_same_map(name):
    full = random_case(tiny_vlm(tower="clip"))
    half_model = tiny_vlm(tower="clip")
    half_model.cast(torch.bfloat16)
    half = random_case(half_model)
    assert half.features.dtype == torch.bfloat16
    scores = method(name).token_scores(half)
    assert torch.isfinite(scores).all()
    reference = method(name).token_scores(full)
    assert scores.dtype == reference.dtype == torch.float32
    if name != "greedy":  # ranks of nearly equal losses may change places
        assert (scores - reference).abs().max() < 0.1 * reference.abs().max() + 0.02
