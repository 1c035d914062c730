"""Recipes: defaults, overrides, bases, and mistakes that name the nearest valid key."""

from pathlib import Path

import pytest
import yaml

from olivine.errors import RequestError
from olivine.recipe import load

MINIMAL = {
    "name": "small",
    "model": {"vision": {"from": "towers/clip"}, "language": {"from": "models/gemma"}},
    "data": {"captions": {"json": "captions.json"}},
    "stages": [
        {"name": "align", "train": ["connector"], "data": "captions", "batch": 4, "lr": 1e-3},
        {"name": "instruct", "train": ["connector", "language"], "data": "captions", "batch": 2, "lr": 2e-5},
    ],
}


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_defaults_are_llavas(recipe_file):
    recipe = load(recipe_file)
    assert recipe.model.vision.layer == -2
    assert recipe.model.connector.depth == 2
    assert recipe.optimizer.warmup == 0.03
    assert recipe.optimizer.weight_decay == 0
    assert recipe.run_directory == Path("runs/small")


def test_overrides_reach_stages_by_name(recipe_file):
    recipe = load(
        recipe_file, ["stages.align.lr=2e-3", "seed=7", "output=elsewhere", "data.captions.turns=independent"]
    )
    assert recipe.stages[0].lr == 2e-3
    assert recipe.stages[1].lr == 2e-5
    assert recipe.seed == 7
    assert recipe.run_directory == Path("elsewhere")
    assert recipe.data["captions"].turns == "independent"


def test_a_written_recipe_reads_back_the_same(recipe_file, tmp_path):
    recipe = load(recipe_file, ["seed=3"])
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    assert load(tmp_path / "resolved.yaml") == recipe


def test_base_is_merged_by_key_and_by_stage_name(recipe_file, tmp_path):
    over = {"base": "recipe.yaml", "name": "other", "stages": [{"name": "align", "skip": True}]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(over))
    recipe = load(tmp_path / "other.yaml")
    assert recipe.name == "other"
    assert [(s.name, s.skip, s.batch) for s in recipe.stages] == [("align", True, 4), ("instruct", False, 2)]


def test_a_base_model_source_is_replaced_whole(tmp_path, recipe_file):
    values = yaml.safe_load(recipe_file.read_text())
    values["model"]["vision"]["from"] = {"model_type": "dinov2", "hidden_size": 8}
    recipe_file.write_text(yaml.safe_dump(values))
    over = {"base": "recipe.yaml", "model": {"vision": {"from": {"model_type": "clip_vision_model"}}}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(over))
    assert load(tmp_path / "other.yaml").model.vision.from_ == {"model_type": "clip_vision_model"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.align.leaning_rate=1", ["stages.align.leaning_rate", "unknown name"]),
        ("stages.align.epoch=1", ["stages.align.epoch", "Did you mean 'epochs'?"]),
        ("model.vison.layer=-1", ["model.vison", "Did you mean 'vision'?"]),
        ("model.vision.fit=pad", ["model.vision.fit", "image_fit"]),
        ("optimizer.warm_up=0.1", ["optimizer.warm_up", "Did you mean 'warmup'?"]),
        ("optimiser.clip=1", ["optimiser", "Did you mean 'optimizer'?"]),
        ("stages.alingn.lr=1", ["alingn", "Did you mean 'align'?"]),
        ("stages.align.data=caption", ["stages.align.data", "Did you mean 'captions'?"]),
        ("stages.align.lr=fast", ["stages.align.lr", "fast"]),
        ("stages.align.lr=-1", ["stages.align.lr", "greater than 0"]),
        ("stages.align.train=[vision, vision]", ["stages.align.train", "once"]),
        ("stages.align.train=[tower]", ["stages.align.train", "vision"]),
        ("model.language.tokenizer={vocab_sise: 600}", ["vocab_sise", "Did you mean 'vocab_size'?"]),
        ("seed", ["seed", "KEY=VALUE"]),
        ("name.first=x", ["name has no keys"]),
        ("name={", ["not valid YAML"]),
        ("model.vision=null", ["model.vision"]),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_valid_one(recipe_file, override, words):
    with pytest.raises(RequestError) as error:
        load(recipe_file, [override])
    for word in words:
        assert word in str(error.value)
    assert "pydantic" not in str(error.value)


def test_all_mistakes_are_reported_at_once(recipe_file):
    with pytest.raises(RequestError) as error:
        load(recipe_file, ["sed=1", "stages.align.lr=0"])
    assert "'seed'" in str(error.value)
    assert "stages.align.lr" in str(error.value)


@pytest.mark.parametrize("text", ["name: [", "- a\n- b\n", ""])
def test_a_file_that_is_no_recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"recipe\.yaml"):
        load(path)


def test_missing_file_and_circular_base(tmp_path):
    with pytest.raises(RequestError, match="not found"):
        load(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(RequestError, match="based on itself"):
        load(tmp_path / "a.yaml")


# tests/ablation/test_study.py covers studies.
RECIPES = [p for p in (Path(__file__).parents[1] / "recipes").rglob("*.yaml") if p.parent.name != "studies"]


@pytest.mark.parametrize("path", sorted(RECIPES), ids=lambda p: p.name)
def test_every_shipped_recipe_is_valid(path):
    assert load(path).stages
