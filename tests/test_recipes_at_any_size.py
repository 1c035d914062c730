"""Every shipped recipe trains in a tiny size, and its cost can be planned from the published configurations alone.

The embedded world's recipes, which are tiny themselves, are in tests/world.
"""

import json

import pytest

from olivine.model import checkpoint
from olivine.recipe import load
from olivine.shipped_recipes import shipped
from olivine.testing import tiny_vlm
from published_models import configuration_folder, tiny_folder
from quick_stages import quick, write_both_kinds

#: Recipes that name modules of the embedded world are in tests/world too.
RECIPES = {
    recipe.name: load(recipe.path)
    for recipe in shipped()
    if not (recipe.is_study or "/" in recipe.name or recipe.name == "own-data")
}


#: The model that recipes/fine-tune.yaml names, for which a user gives another.
WHOLE = "runs/base"


def in_place_of_published(recipe, folder):
    """Overrides that take every module of a recipe from `folder(id)`, where the recipe names one on the hub."""
    if recipe.model.from_ is not None:
        return [f"model.from={folder(recipe.model.from_)}"]
    vision, language = recipe.model.vision, recipe.model.language
    found = []
    if vision.fused is not None:
        found.append(f"model.vision.fused={json.dumps([str(folder(name)) for name in vision.fused])}")
    elif isinstance(vision.from_, str):
        found.append(f"model.vision.from={folder(vision.from_)}")
    if isinstance(language.from_, str):
        found.append(f"model.language.from={folder(language.from_)}")
    return found


def tiny_module(source, folders):
    """Return a tiny folder of a published module, or a tiny whole model for the fine-tuning recipe's placeholder."""
    if source != WHOLE:
        return tiny_folder(source, folders)
    if not (folders / "whole").exists():
        checkpoint.save(tiny_vlm(), folders / "whole")
    return folders / "whole"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_both_kinds(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_of_each_stage(run, name, folders, dataset, tmp_path):
    recipe = RECIPES[name]
    modules = in_place_of_published(recipe, lambda hub_id: tiny_module(hub_id, folders))
    code, _, err = run("train", name, *modules, *quick(recipe, dataset), f"output={tmp_path / 'run'}")
    assert code == 0, err
    for stage in recipe.stages:
        result = json.loads((tmp_path / "run" / stage.name / "result.json").read_text())
        assert (result["steps"], result["skipped"]) == (2, "none skipped")
    vlm = checkpoint.load(tmp_path / "run" / recipe.stages[-1].name / "checkpoint")
    assert vlm.image_tokens == (PLANNED[name][0] if name in PLANNED else {"fine-tune": 4}.get(name, 64))


#: Image tokens; parameters of tower, connector and language model; GB at the peak of each stage on one H100, of which
#: nothing but the estimate is known. Towers are the published sizes (SigLIP's with its pooling head), as are language
#: models but for the rows that <image> adds: 64 times their width, twice where the head is not tied.
PLANNED = {
    "llava-1.5-7b": (576, 303_507_456, 20_979_712, 6_738_415_616 + 2 * 64 * 4096, (19.9, 129.1)),
    "llava-gemma-2b-clip": (576, 303_507_456, 6_295_552, 2_506_172_416 + 64 * 2048, (20.6, 68.1)),
    "llava-gemma-2b-dinov2": (576, 1_136_480_768, 7_344_128, 2_506_172_416 + 64 * 2048, (25.2, 72.6)),
    "llava-gemma-2b-dinov2-large": (576, 304_368_640, 6_295_552, 2_506_172_416 + 64 * 2048, (20.6, 68.1)),
    "llava-gemma-2b-dinov2-registers": (576, 304_372_736, 6_295_552, 2_506_172_416 + 64 * 2048, (20.6, 68.1)),
    "prismatic-dinosiglip-7b": (
        729, 304_372_736 + 428_225_600, 42_479_616, 6_738_415_616 + 2 * 64 * 4096, (134.4,),
    ),
    "compact-2026": (64, 93_520_128, 12_583_936, 596_049_920 + 64 * 1024, (30.6,)),
    "compact-2026-gemma3": (64, 93_520_128, 7_864_960, 268_098_176 + 64 * 640, (19.7,)),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANNED)
def test_the_plan_of_a_published_size(run, name, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no data
    recipe = RECIPES[name]
    image_tokens, tower, connector, language, peaks = PLANNED[name]
    modules = in_place_of_published(recipe, lambda hub_id: configuration_folder(hub_id, folders))
    steps = [f"stages.{stage.name}.steps=10" for stage in recipe.stages]
    code, out, err = run("plan", name, *modules, *steps, "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["image_tokens"] == image_tokens
    for stage, peak in zip(plan["stages"], peaks, strict=True):
        sizes = {**stage["trained"], **stage["frozen"]}
        assert sizes == {"vision": tower, "connector": connector, "language": language}
        assert stage["memory"]["optimizer"] == 8 * sum(stage["trained"].values())
        assert sum(stage["memory"].values()) / 1e9 == pytest.approx(peak, rel=0.01)
    code, out, err = run("plan", name, *modules, *steps, "--count", "8")
    assert code == 0, err
    assert f"an image: {image_tokens} tokens" in out
    assert "DOES NOT FIT" not in out, "eight of them train every shipped recipe"


def test_every_recipe_of_a_published_size_is_planned():
    assert set(PLANNED) == set(RECIPES) - {"easy-vqa", "fine-tune"}


def test_a_plan_without_configurations_says_which_file_it_needs(run):
    code, _, err = run("plan", "compact-2026", "stages.instruct.steps=10")
    assert code == 2
    said = " ".join(err.split())
    assert "model.vision.from: 'google/siglip2-base-patch16-512'" in said
    assert "`hf download google/siglip2-base-patch16-512 config.json --local-dir DIR`" in said
