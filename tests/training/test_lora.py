"""Low-rank updates: nothing changes at first, only adapters train, merged they compute the same, killed they resume."""

import json

import pytest
import torch
from tiny_runs import QUIET, make_recipe, same, weights

from olivine.cost.estimate import Lengths, estimate
from olivine.data.packing import padding_sequence
from olivine.errors import RequestError
from olivine.files import read_json_lines
from olivine.model import checkpoint
from olivine.model.attention import packed
from olivine.model.build import build
from olivine.recipe import LoraRecipe
from olivine.testing import tiny_model_recipe
from olivine.training import lora
from olivine.training import stage as stage_module
from olivine.training.run import train

pytest.importorskip("peft", reason="peft is not installed")
TARGETS = ("q_proj", "v_proj", "down_proj")


def recipe_of(dataset, output, *, precision="fp32", **changed):
    stage = {"name": "a", "steps": 6, "save_every": 2, "lora": {"rank": 4, "targets": TARGETS}, **changed}
    return make_recipe(dataset, output, stages=[stage], optimizer={"precision": precision})


def built():
    return build(tiny_model_recipe(), seed=0, texts=lambda: ())


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return train(recipe_of(dataset, tmp_path_factory.mktemp("lora") / "run"), QUIET)


@torch.no_grad()
def states(vlm):
    sequence = padding_sequence(24)
    with packed(vlm.language):
        return vlm.run(sequence, torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(0)))


def test_an_adapter_changes_nothing_at_first_and_computes_the_same_merged():
    vlm = built()
    names = set(vlm.model.state_dict())
    before = states(vlm)
    lora.insert(vlm.language, LoraRecipe(rank=4, targets=TARGETS))
    assert torch.equal(states(vlm), before)
    adapters = [p for name, p in vlm.language.named_parameters() if lora.of_adapters(name)]
    assert len(adapters) == 2 * 2 * len(TARGETS)
    for parameter in adapters:
        parameter.data = torch.randn_like(parameter) / 4
    apart = states(vlm)
    assert not torch.allclose(apart, before, atol=1e-2)
    lora.merge(vlm.language)
    assert set(vlm.model.state_dict()) == names
    torch.testing.assert_close(states(vlm), apart, rtol=1e-4, atol=1e-5)


def test_only_the_targets_and_the_connector_move(trained):
    before, after = built().model.state_dict(), weights(trained)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    language = {name for name in moved if "language_model" in name}
    assert {name.split(".")[-2] for name in language} == set(TARGETS)
    assert len(language) == 2 * len(TARGETS)
    assert {name.split(".")[1] for name in moved - language} == {"multi_modal_projector"}


def test_the_merged_update_has_the_requested_rank(trained):
    before, after = built().model.state_dict(), weights(trained)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    strengths = torch.linalg.svdvals((after[name] - before[name]).double())
    assert strengths[3] > 1e-5
    assert strengths[4] < 1e-3 * strengths[0]


class KilledError(Exception):
    pass


def killed_and_gone_on_with(recipe, monkeypatch):
    original = stage_module.Stage._step

    def dies(self, step, batch, waited, log):
        if step == 5:
            raise KilledError
        return original(self, step, batch, waited, log)

    with monkeypatch.context() as patch:
        patch.setattr(stage_module.Stage, "_step", dies)
        with pytest.raises(KilledError):
            train(recipe, QUIET)
    return train(recipe, QUIET)


def test_a_killed_run_resumes_to_the_same_bits(trained, dataset, tmp_path, monkeypatch):
    folder = killed_and_gone_on_with(recipe_of(dataset, tmp_path / "run"), monkeypatch)
    assert same(weights(trained), weights(folder))


def test_in_bf16_the_models_own_weights_are_bf16_and_the_adapters_are_not(dataset, tmp_path, monkeypatch):
    seen = {}
    original = stage_module.Stage.run

    def run(self):
        for name, parameter in self.vlm.language.named_parameters():
            seen[lora.of_adapters(name), parameter.requires_grad] = parameter.dtype
        return original(self)

    monkeypatch.setattr(stage_module.Stage, "run", run)
    folder = train(recipe_of(dataset, tmp_path / "run", precision="bf16"), QUIET)
    assert seen == {(False, False): torch.bfloat16, (True, True): torch.float32}
    assert not any("lora" in name for name in checkpoint.load(folder).model.state_dict())


def test_wrong_requests(dataset, tmp_path):
    with pytest.raises(RequestError, match=r"lora\.targets qkv: no such linear layer\. Valid: down_proj, gate_proj"):
        train(recipe_of(dataset, tmp_path / "a", lora={"targets": ["qkv"]}), QUIET)
    with pytest.raises(ValueError, match="expected language in train"):
        recipe_of(dataset, tmp_path / "b", train=["connector"])


def test_the_plan_counts_adapters_instead_of_the_model(dataset, tmp_path):
    lengths = {"all": Lengths(1000, 800.0, 100.0, 1500, 1.0, "given")}
    (stage,) = estimate(recipe_of(dataset, tmp_path), "h100", lengths=lengths).stages
    (whole,) = estimate(recipe_of(dataset, tmp_path, lora=None), "h100", lengths=lengths).stages
    vlm = built()
    size = sum(parameter.numel() for parameter in vlm.part("language").values())
    lora.insert(vlm.language, LoraRecipe(rank=4, targets=TARGETS))
    adapters = sum(p.numel() for name, p in vlm.language.named_parameters() if lora.of_adapters(name))
    assert stage.trained["language"] == adapters
    assert stage.frozen["language"] == whole.trained["language"] == size
    assert stage.memory["optimizer"] < whole.memory["optimizer"]
    assert json.dumps(stage.memory["weights"]) != json.dumps(whole.memory["weights"])


def quantized_states(vlm, quantize):
    torch.manual_seed(0)
    lora.insert(vlm.language, LoraRecipe(rank=4, targets=TARGETS, quantize=quantize))
    for name, parameter in vlm.language.named_parameters():
        if lora.of_adapters(name):
            parameter.data = torch.randn_like(parameter) / 4
    return states(vlm)


def test_in_four_bits_the_merged_model_computes_what_was_trained():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    vlm, plain = built(), built()
    names, shapes = set(vlm.model.state_dict()), {n: p.shape for n, p in vlm.model.named_parameters()}
    apart = quantized_states(vlm, "nf4")
    layers = [m for m in vlm.language.modules() if type(m).__name__ == "Linear4bit"]
    assert len(layers) == 2 * 7, "every linear layer of both blocks, adapted or not"
    assert all(m.weight.dtype == torch.uint8 and m.weight.numel() <= m.in_features * m.out_features for m in layers)
    whole = quantized_states(plain, None)
    # Four bits are close, not equal.
    assert not torch.allclose(apart, whole, atol=1e-3)
    assert torch.nn.functional.cosine_similarity(apart, whole).mean() > 0.8
    lora.merge(vlm.language)
    assert set(vlm.model.state_dict()) == names
    assert {n: p.shape for n, p in vlm.model.named_parameters()} == shapes
    torch.testing.assert_close(states(vlm), apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_four_bits_a_killed_run_resumes_to_the_same_bits(dataset, tmp_path, monkeypatch, precision):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    four = {"lora": {"rank": 4, "targets": TARGETS, "quantize": "nf4"}, "precision": precision}
    whole = train(recipe_of(dataset, tmp_path / "whole", **four), QUIET)
    folder = killed_and_gone_on_with(recipe_of(dataset, tmp_path / "cut", **four), monkeypatch)
    assert same(weights(whole), weights(folder))
    losses = [sequence["loss"] for sequence in read_json_lines(whole.parent / "metrics.jsonl") if "loss" in sequence]
    assert losses[-1] < losses[0]


def test_the_plan_counts_four_bits(dataset, tmp_path):
    lengths = {"all": Lengths(1000, 800.0, 100.0, 1500, 1.0, "given")}

    def held(quantize):
        changed = {"rank": 4, "targets": TARGETS, "quantize": quantize}
        (stage,) = estimate(recipe_of(dataset, tmp_path, lora=changed), "h100", lengths=lengths).stages
        return stage.memory["weights"]

    linear = sum(p.numel() for name, p in built().part("language").items() if name.endswith("_proj.weight"))
    assert held(None) - held("nf4") == pytest.approx(linear * (4 - 0.516), rel=0.02)
