"""Recipes and studies of the package are found by name, listed, and copied together with their bases."""

import json
from pathlib import Path

import pytest
import yaml

from olivine import shipped_recipes
from olivine.ablation.study import load_study
from olivine.errors import RequestError
from olivine.recipe import load
from olivine.shipped_recipes import resolve, shipped


def test_every_recipe_says_what_it_is_and_loads():
    for recipe in shipped():
        assert recipe.about, f"{recipe.name}: its first line is no comment"
        assert (load_study if recipe.is_study else load)(recipe.path)


def test_a_name_is_found_and_a_file_of_that_path_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve(Path("easy-vqa")) == shipped_recipes.folder() / "easy-vqa.yaml"
    assert resolve(Path("recipes/world/clip-s-aligned.yaml")) == shipped_recipes.folder() / "world/clip-s-aligned.yaml"
    assert resolve(Path("world"), study=True) == shipped_recipes.folder() / "studies/world.yaml"
    own = tmp_path / "easy-vqa"
    own.write_text("name: own\n")
    assert resolve(Path("easy-vqa")) == Path("easy-vqa")


@pytest.mark.parametrize(("given", "study", "nearest"), [("easy-vqq", False, "easy-vqa"), ("wrold", True, "world")])
def test_an_unknown_name_is_refused_with_the_nearest(given, study, nearest):
    with pytest.raises(RequestError, match=f"file not found.*Did you mean '{nearest}'"):
        resolve(Path(given), study=study)


def test_a_copy_includes_its_base_and_means_the_same(tmp_path):
    copied = shipped_recipes.copy("world/clip-l-unaligned", tmp_path / "mine")
    assert [path.name for path in copied] == ["clip-l-unaligned.yaml", "base.yaml"]
    assert load(copied[0]) == load(resolve(Path("world/clip-l-unaligned")))


def test_a_copied_study_stands_alone(tmp_path):
    study, *bases = shipped_recipes.copy("studies/world", tmp_path)
    assert bases
    assert load_study(study).recipes == load_study(resolve(Path("studies/world"))).recipes


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "base.yaml").write_text("name: mine\n")
    with pytest.raises(RequestError, match=r"base\.yaml already exists"):
        shipped_recipes.copy("world/clip-s-aligned", tmp_path)
    assert [path.name for path in (tmp_path / "world").iterdir()] == ["base.yaml"]
    assert yaml.safe_load((tmp_path / "world" / "base.yaml").read_text()) == {"name": "mine"}


def test_the_command_lists_and_copies(run, tmp_path):
    code, out, _ = run("recipes")
    assert code == 0
    assert "easy-vqa" in out
    assert len(out.splitlines()) == len(shipped())
    code, out, _ = run("recipes", "--json")
    assert {row["name"] for row in json.loads(out)} == {recipe.name for recipe in shipped()}
    code, _, err = run("recipes", "--copy", "easy-vqa", "--into", tmp_path)
    assert code == 0
    assert (tmp_path / "easy-vqa.yaml").is_file()
    assert "copied 1 file(s)" in err
