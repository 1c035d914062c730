"""A bf16 stage's weights reach the next stage unrounded, uninterrupted and after a kill between the two."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import QUIET, make_recipe, same, weights

from olivine.errors import DataError
from olivine.model.build import build
from olivine.recipe import StageRecipe
from olivine.testing import CORPUS, tiny_vlm
from olivine.training import engine
from olivine.training.run import train, train_stage
from olivine.training.stage import Stage
from olivine.training.trainable import set_precision
from olivine.training.trained_weights import TRAINED, load_to_train, put_trained


def bf16_recipe(dataset, output, **more):
    return make_recipe(dataset, output, optimizer={"precision": "bf16"}, **more)


@pytest.fixture
def started(monkeypatch):
    """The connector's weights as each stage finds them, by the stage's name."""
    found = {}
    original = Stage.run

    def run(self):
        found[self.stage.name] = {n: p.detach().clone() for n, p in self.vlm.part("connector").items()}
        return original(self)

    monkeypatch.setattr(Stage, "run", run)
    return found


def test_the_second_stage_starts_with_the_first_ones_weights(dataset, tmp_path, started):
    train(bf16_recipe(dataset, tmp_path / "run"), QUIET)
    trained = load_file(tmp_path / "run" / "align" / TRAINED)
    assert set(trained) == set(started["instruct"])
    assert all(torch.equal(trained[name], started["instruct"][name]) for name in trained)
    rounded = weights(tmp_path / "run" / "align" / "checkpoint")
    assert {rounded[name].dtype for name in trained} == {torch.bfloat16}
    assert all(torch.equal(trained[name].bfloat16(), rounded[name]) for name in trained)
    assert any(not torch.equal(trained[name], rounded[name].float()) for name in trained)
    assert not (tmp_path / "run" / "instruct" / TRAINED).exists(), "nothing follows the last stage"


def test_a_run_killed_between_its_stages_ends_in_the_same_bits(dataset, tmp_path, monkeypatch):
    whole = weights(train(bf16_recipe(dataset, tmp_path / "whole"), QUIET))
    finish = engine.finish_stage

    def killed(*arguments, followed):
        finish(*arguments, followed=followed)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "finish_stage", killed)
    with pytest.raises(KeyboardInterrupt):
        train(bf16_recipe(dataset, tmp_path / "run"), QUIET)
    monkeypatch.setattr(engine, "finish_stage", finish)
    assert same(whole, weights(train(bf16_recipe(dataset, tmp_path / "run"), QUIET)))


def test_a_studys_steps_end_in_the_bits_of_a_run(dataset, tmp_path):
    whole = weights(train(bf16_recipe(dataset, tmp_path / "run"), QUIET))
    recipe = bf16_recipe(dataset, None)
    after = train_stage(recipe, recipe.stages[0], None, tmp_path / "one", QUIET)
    assert same(whole, weights(train_stage(recipe, recipe.stages[1], after, tmp_path / "two", QUIET)))


def test_fp32_leaves_no_second_file(dataset, tmp_path):
    train(make_recipe(dataset, tmp_path / "run"), QUIET)
    assert not list((tmp_path / "run").rglob(TRAINED))


def test_damaged_weights_are_named_with_what_to_do(dataset, tmp_path):
    recipe = bf16_recipe(dataset, None)
    after = train_stage(recipe, recipe.stages[0], None, tmp_path / "one", QUIET)
    file = tmp_path / "one" / TRAINED
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"trained\.safetensors: damaged .*train it again"):
        load_to_train(after)


def test_another_models_weights_are_refused():
    vlm = tiny_vlm()
    name = next(iter(vlm.part("connector")))
    with pytest.raises(DataError, match="is not a weight of the model"):
        put_trained({name: torch.zeros(3, 3)}, vlm)


@pytest.mark.parametrize("trains", [("connector",), ("connector", "language")])
def test_a_stage_rounds_only_frozen_weights(dataset, trains):
    recipe = bf16_recipe(dataset, None)
    vlm = build(recipe.model, seed=0, texts=lambda: CORPUS)
    before = {name: p.detach().clone() for name, p in vlm.model.named_parameters()}
    set_precision(vlm, StageRecipe(name="s", train=trains, data="all", batch=1, lr=1.0), recipe)
    trained = {name for part in trains for name in vlm.part(part)}
    for name, parameter in vlm.model.named_parameters():
        expected = before[name] if name in trained else before[name].bfloat16()
        assert torch.equal(parameter, expected), name
