"""The embedded world's recipes train as they are shipped."""

import json

import pytest

from olivine.recipe import load
from olivine.shipped_recipes import shipped
from quick_stages import quick, write_both_kinds

RECIPES = {
    recipe.name: load(recipe.path)
    for recipe in shipped()
    if recipe.name.startswith("world/") or recipe.name == "own-data"
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_both_kinds(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_of_each_stage(run, name, dataset, tmp_path):
    recipe = RECIPES[name]
    code, _, err = run("train", name, *quick(recipe, dataset), f"output={tmp_path / 'run'}")
    assert code == 0, err
    trained = [stage.name for stage in recipe.stages if not stage.skip]
    for stage in trained:
        assert json.loads((tmp_path / "run" / stage / "result.json").read_text())["steps"] == 2
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == set(trained)
