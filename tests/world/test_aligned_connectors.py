"""The package's aligned connectors: aligned between the modules that they name, and trained by one command."""

import torch

from olivine.model.build import build
from olivine.recipe import load
from olivine.shipped_recipes import folder
from olivine.world.backbones import CONNECTORS, locate


def test_the_shipped_connector_is_the_start_of_the_own_data_recipe():
    recipe = load(folder() / "own-data.yaml").model
    about = CONNECTORS[recipe.connector.from_.removeprefix("world:")]
    assert (recipe.vision.from_, recipe.language.from_) == (f"world:{about.tower}", f"world:{about.language}")
    aligned = build(recipe, seed=0, texts=lambda: ()).connector.state_dict()
    fresh = recipe.model_copy(update={"connector_": recipe.connector.model_copy(update={"from_": None})})
    assert not torch.equal(aligned["linear_1.weight"], build(fresh, seed=0, texts=lambda: ()).connector.linear_1.weight)


def test_the_command_trains_one(run, tmp_path):
    asked = ("--work", tmp_path / "work", "--output", tmp_path / "out", "--steps", 2)
    code, _, err = run("world", "align", *asked)
    assert code == 0, err
    for name in CONNECTORS:
        assert (tmp_path / "out" / name / "connector.safetensors").is_file()
        recipe = load(
            folder() / "own-data.yaml", [f"model.connector.from={tmp_path / 'out' / name}/connector.safetensors"]
        )
        assert build(recipe.model, seed=0, texts=lambda: ()).image_tokens == 36


def test_an_unknown_name_is_refused_with_the_valid_ones(run, tmp_path):
    code, _, err = run("world", "align", "--only", "tiny", "--work", tmp_path)
    assert code == 2
    assert "tiny-connector-clip-s" in err


def test_a_named_source_is_a_file():
    assert locate("tiny-connector-clip-s").endswith("connector.safetensors")
