"""The Python interface does what the command line does, whatever has been imported before."""

import importlib
import importlib.util
import inspect
import json
import pkgutil

import pytest
import yaml
from PIL import Image

import olivine
from olivine.errors import RequestError, RunError
from olivine.recipe import Recipe
from olivine.recipe import load as load_recipe
from olivine.records import Question
from olivine.testing import tiny_model_recipe, write_dataset

STAGE = {"data": "all", "batch": 4, "lr": 1e-2, "steps": 2, "held_out": 0, "validate_every": 0}


def write_experiment(folder):
    """Write data, questions about its images and a recipe of two stages over random modules; returns the recipe."""
    dataset = write_dataset(folder / "data")
    rows = [{"question_id": n, "image": f"{n}.png", "text": "is there a circle?", "answer": "yes"} for n in range(3)]
    lines = "".join(json.dumps(row | {"category": "shape"}) + "\n" for row in rows)
    (folder / "data" / "questions.jsonl").write_text(lines)
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": tiny_model_recipe().model_dump(by_alias=True),
            "data": {"all": {"json": dataset, "images": dataset.parent / "images"}},
            "stages": [
                {"name": "align", "train": ["connector"], **STAGE},
                {"name": "instruct", "train": ["connector", "language"], **STAGE},
            ],
            "optimizer": {"precision": "fp32"},
            "output": folder / "run",
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    recipe = write_experiment(folder)
    olivine.train(recipe, quiet=True)
    return folder, recipe


def test_every_function_is_callable_after_every_submodule_was_imported():
    for module in pkgutil.walk_packages(olivine.__path__, "olivine."):
        if module.name == "olivine.demo" and importlib.util.find_spec("olivine.world") is None:
            continue  # the demo needs the world, which `make test-core` deletes
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in olivine.__all__:
        offered = getattr(olivine, name)
        assert name == "__version__" or callable(offered), name
    assert set(olivine.__all__) <= set(dir(olivine))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = olivine.nothing


@pytest.mark.parametrize("name", [name for name in olivine.__all__ if name != "__version__"])
def test_functions_are_documented_and_typed(name):
    offered = getattr(olivine, name)
    documented = inspect.getdoc(offered) or ""
    assert len(documented.splitlines()) > 3
    signature = inspect.signature(offered.__init__ if inspect.isclass(offered) else offered)
    for parameter in signature.parameters.values():
        assert parameter.name == "self" or parameter.annotation is not inspect.Parameter.empty
        if not inspect.isclass(offered):
            assert f"{parameter.name}:" in documented


def test_a_model_is_loaded_and_answers(trained):
    folder, _ = trained
    model = olivine.load(folder / "run", device="cpu")
    image = folder / "data" / "images" / "0.png"
    said = model.answer(image, "is there a circle?", max_new_tokens=4)
    assert said == model.answer(str(image), "is there a circle?", max_new_tokens=4)
    with Image.open(image) as opened:
        assert said == model.answer(opened.convert("RGB"), "is there a circle?", max_new_tokens=4)
    assert isinstance(model.answer(None, "is there a circle?", max_new_tokens=4), str)
    questions = [Question(str(n), "is there a circle?", f"{n % 2}.png", "u") for n in (2, 0, 1)]
    assert [a.question_id for a in model.answers(questions, folder / "data" / "images")] == ["2", "0", "1"]


def test_evaluating_and_scoring_agree(trained, tmp_path):
    folder, _ = trained
    questions = folder / "data" / "questions.jsonl"
    found = olivine.evaluate(folder / "run", "exact-match", questions, output=tmp_path / "scores")
    again = olivine.score("exact-match", questions, tmp_path / "scores" / "answers.jsonl")
    assert found.metrics == again.metrics
    assert json.loads((tmp_path / "scores" / "scores.json").read_text())["metrics"] == dict(found.metrics)
    with pytest.raises(RequestError, match="exact-match has no options"):
        olivine.score("exact-match", questions, tmp_path / "scores" / "answers.jsonl", options={"x": 1})


def test_a_recipe_by_name_or_by_value(trained):
    _, recipe = trained
    estimate = olivine.plan(recipe, device="cpu")
    assert estimate.hours > 0
    with pytest.raises(RequestError, match="overrides apply to recipes that are read"):
        olivine.plan(recipe, "seed=1")
    assert olivine.plan("easy-vqa", "stages.look.steps=3", "stages.align.steps=3", "stages.instruct.steps=3").stages
    assert load_recipe is not olivine.load


def test_a_study_is_run_and_reported(tmp_path):
    recipe = write_experiment(tmp_path)
    (tmp_path / "base.yaml").write_text(recipe.model_copy(update={"output": None}).to_yaml())
    study = {
        "name": "small",
        "base": "base.yaml",
        "axes": {"align": {"yes": {}, "no": {"stages.align.skip": True}}},
        "benchmarks": {"exact-match": str(tmp_path / "data")},
        "output": str(tmp_path / "study"),
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    assert olivine.ablate(tmp_path / "study.yaml", quiet=True).is_file()
    study |= {"output": str(tmp_path / "broken"), "overrides": {"stages.instruct.lr": 1e30}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(RunError, match=r"steps failed|no evaluation is finished"):
        olivine.ablate(tmp_path / "broken.yaml", quiet=True)
