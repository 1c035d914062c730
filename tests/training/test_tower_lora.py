"""Low-rank updates of the tower: nothing changes at first, only adapters train, merged they compute the same."""

import pytest
import torch
from tiny_runs import QUIET, interrupt_at, make_recipe, same, weights

from olivine.cost.estimate import Lengths, estimate
from olivine.errors import RequestError
from olivine.model import checkpoint
from olivine.model.build import build
from olivine.model.towers import registry
from olivine.model.towers.linear import linear_layers
from olivine.model.towers.registry import tower_family, tower_types
from olivine.recipe import ModelRecipe, VisionLoraRecipe
from olivine.testing import CORPUS, tiny_model_recipe
from olivine.training import lora, tower_lora
from olivine.training.run import train

pytest.importorskip("peft", reason="peft is not installed")
ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
FUSED = "clip and dinov2"


def built(tower="clip_vision_model"):
    clip, dinov2 = (tower_family(name).tiny for name in ("clip_vision_model", "dinov2"))
    vision = {"fused": [clip, dinov2]} if tower == FUSED else {"from": tower_family(tower).tiny}
    values = tiny_model_recipe().model_dump(by_alias=True)
    recipe = ModelRecipe.model_validate(values | {"vision": {**vision, "image_size": 16}})
    return build(recipe, seed=0, texts=lambda: CORPUS)


@torch.no_grad()
def features(vlm):
    return vlm.patch_features(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("tower", [*tower_types(), FUSED])
def test_an_adapter_changes_nothing_at_first_and_computes_the_same_merged(tower):
    vlm = built(tower)
    names, before = set(vlm.model.state_dict()), features(vlm)
    assert set(linear_layers(vlm.tower, "").values()) == ALL
    tower_lora.insert(vlm.tower, VisionLoraRecipe(rank=4, alpha=4), "here")
    torch.manual_seed(0)
    assert torch.equal(features(vlm), before)
    adapters = [p for name, p in vlm.tower.named_parameters() if lora.of_adapters(name)]
    assert len(adapters) == 2 * 2 * len(ALL) * (2 if tower == FUSED else 1), "two matrices in each layer of two blocks"
    for parameter in adapters:
        parameter.data = torch.randn_like(parameter) / 4
    apart = features(vlm)
    assert not torch.allclose(apart, before, atol=1e-2)
    lora.merge(vlm.tower)
    assert set(vlm.model.state_dict()) == names
    torch.testing.assert_close(features(vlm), apart, rtol=1e-4, atol=1e-4)


def recipe_of(dataset, output, *, precision="fp32", **changed):
    stage = {
        "name": "a", "train": ["vision", "connector"], "steps": 4, "save_every": 2, "held_out": 0,
        "vision_lora": {"rank": 4, "targets": ["q_proj", "o_proj"]},
    }  # fmt: skip
    model = tiny_model_recipe(layer=-1)
    return make_recipe(dataset, output, model=model, stages=[{**stage, **changed}], optimizer={"precision": precision})


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return train(recipe_of(dataset, tmp_path_factory.mktemp("lora") / "run"), QUIET)


def test_only_the_targets_and_the_connector_move_with_the_requested_rank(trained):
    before = build(tiny_model_recipe(layer=-1), seed=0, texts=lambda: ()).model.state_dict()
    after = weights(trained)
    assert before.keys() == after.keys(), "saved as a plain model"
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    vision = {name for name in moved if name.startswith("model.vision_tower.")}
    assert {name.split(".")[-2] for name in vision} == {"q_proj", "out_proj"}
    assert len(vision) == 4
    assert {name.split(".")[1] for name in moved - vision} == {"multi_modal_projector"}
    for name in vision:
        strengths = torch.linalg.svdvals((after[name] - before[name]).double())
        assert strengths[4] < 1e-3 * strengths[0]


def test_a_killed_run_resumes_to_the_same_bits(trained, dataset, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    def die():
        raise KilledError

    interrupt_at(monkeypatch, 3, die)
    with pytest.raises(KilledError):
        train(recipe_of(dataset, tmp_path / "run"), QUIET)
    assert same(weights(trained), weights(train(recipe_of(dataset, tmp_path / "run"), QUIET)))


def test_both_modules_adapted_in_bf16_are_saved_plainly(dataset, tmp_path):
    changed = {"train": ["vision", "language"], "lora": {"rank": 2}, "lr": {"vision": 1e-2, "language": 1e-3}}
    folder = train(recipe_of(dataset, tmp_path / "run", precision="bf16", **changed), QUIET)
    found = checkpoint.load(folder).model.state_dict()
    before = build(tiny_model_recipe(layer=-1), seed=0, texts=lambda: ()).model.state_dict()
    assert found.keys() == before.keys()
    moved = {n.split(".")[1] for n in before if not torch.equal(before[n].bfloat16(), found[n].bfloat16())}
    assert moved == {"vision_tower", "language_model"}


def test_wrong_requests(dataset, tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"lora\.targets gate_proj: .*no such linear layer\. Valid: down"):
        train(recipe_of(dataset, tmp_path / "a", vision_lora={"targets": ["q_proj", "gate_proj"]}), QUIET)
    with pytest.raises(ValueError, match="expected vision in train"):
        recipe_of(dataset, tmp_path / "b", train=["connector"])
    monkeypatch.setattr(registry._OWN["clip_vision_model"], "linear_names", {})
    with pytest.raises(RequestError, match=r"stages\.a\.vision_lora: .*'clip_vision_model' does not say"):
        train(recipe_of(dataset, tmp_path / "c"), QUIET)
    assert not (tmp_path / "c" / "a").exists(), "before anything is trained"


def test_the_plan_counts_adapters_instead_of_the_tower(dataset, tmp_path):
    lengths = {"all": Lengths(1000, 800.0, 100.0, 1500, 1.0, "given")}
    (stage,) = estimate(recipe_of(dataset, tmp_path), "h100", lengths=lengths).stages
    (whole,) = estimate(recipe_of(dataset, tmp_path, vision_lora=None), "h100", lengths=lengths).stages
    vlm = build(tiny_model_recipe(layer=-1), seed=0, texts=lambda: ())
    tower_lora.insert(vlm.tower, VisionLoraRecipe(rank=4, targets=("q_proj", "o_proj")), "here")
    adapters = sum(p.numel() for name, p in vlm.tower.named_parameters() if lora.of_adapters(name))
    assert stage.trained["vision"] == adapters
    assert stage.frozen["vision"] == whole.trained["vision"]
    assert stage.memory["optimizer"] < whole.memory["optimizer"]
    assert stage.operations < whole.operations
