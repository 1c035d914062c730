"""A run starts from a whole model (`model.from`): the same bits as its checkpoint, nothing contradicted, resumable."""

import json
import shutil

import pytest
import torch
from test_resume import KilledError, die
from tiny_runs import QUIET, interrupt_at, make_recipe, same, weights

from olivine.data.sources import read_samples
from olivine.errors import DataError, RequestError
from olivine.files import read_json
from olivine.model import checkpoint
from olivine.model.build import build, skeleton
from olivine.model.size import model_size
from olivine.recipe import ModelRecipe, from_values, load
from olivine.testing import tiny_model_recipe, tiny_vlm
from olivine.training.run import train

TUNE = [{"name": "tune", "steps": 4, "save_every": 1}]


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory):
    """A finished run of two stages, in bf16: its folder holds rounded weights."""
    output = tmp_path_factory.mktemp("base") / "run"
    stages = [{"name": "align", "train": ["connector"], "steps": 2}, {"name": "instruct", "steps": 2}]
    train(make_recipe(dataset, output, stages=stages, optimizer={"precision": "bf16"}), QUIET)
    return output


def whole(source):
    return ModelRecipe.model_validate({"from": str(source)})


def tuned(dataset, output, source, stages=None, **more):
    return make_recipe(dataset, output, stages=stages or TUNE, model=whole(source), **more)


@pytest.mark.parametrize("vision", [{}, {"registers": None, "layer": -1, "image_fit": "squash"}])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_start_is_the_folders_model_with_its_settings(tmp_path, depth, vision):
    saved = tiny_vlm(depth=depth, **vision)
    saved.template = "vicuna"
    checkpoint.save(saved, tmp_path / "model")
    started = build(whole(tmp_path / "model"), seed=7, texts=lambda: ())
    assert same(saved.model.state_dict(), started.model.state_dict())
    assert (started.transform, started.template) == (saved.transform, "vicuna")
    assert started.model.config.vision_feature_layer == saved.model.config.vision_feature_layer
    assert started.model.generation_config.eos_token_id == saved.model.generation_config.eos_token_id


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_plan_of_a_start_is_that_of_its_modules(tmp_path, depth):
    recipe = tiny_model_recipe(depth=depth)
    vlm = build(recipe, seed=0, texts=lambda: ("a",))
    checkpoint.save(vlm, tmp_path / "model")
    shape, expected = model_size(whole(tmp_path / "model")), model_size(recipe)
    for name in ("tower", "connector", "language", "patches", "tower_tokens", "features", "feature_width", "layers"):
        assert getattr(shape, name) == getattr(expected, name), name
    assert skeleton(whole(tmp_path / "model"))[1].transform == vlm.transform


def test_training_continues_from_the_folders_weights(dataset, base, tmp_path):
    folder = train(tuned(dataset, tmp_path / "run", base), QUIET)
    before, after = weights(base / "instruct" / "checkpoint"), weights(folder)
    changed = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert changed
    assert not any("vision_tower" in name for name in changed)
    assert max(float((before[name].float() - after[name].float()).abs().max()) for name in changed) < 0.2
    assert checkpoint.load(folder).template == checkpoint.load(base / "instruct" / "checkpoint").template


def test_a_folder_a_stage_and_a_run_are_the_same_start(dataset, base, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(base / "instruct" / "checkpoint", copied)
    found = [
        weights(train(tuned(dataset, tmp_path / name, source), QUIET))
        for name, source in (("a", base), ("b", base / "instruct"), ("c", copied))
    ]
    assert same(found[0], found[1])
    assert same(found[0], found[2])  # the folder alone decides, not what lies beside it


@pytest.mark.parametrize("depth", [1, 3])
def test_a_connector_of_one_layer_stays_one(dataset, tmp_path, depth):
    checkpoint.save(tiny_vlm(depth=depth), tmp_path / "model")
    stages = [{"name": "tune", "train": ["connector"], "steps": 2}]
    after = weights(train(tuned(dataset, tmp_path / "run", tmp_path / "model", stages), QUIET))
    second = [tensor for name, tensor in after.items() if name.endswith("linear_2.weight")]
    assert len(second) == (depth == 1)
    assert all(torch.equal(tensor, torch.eye(len(tensor))) for tensor in second)


def test_lora_trains_from_a_start(dataset, base, tmp_path):
    pytest.importorskip("peft")
    stages = [{**TUNE[0], "lora": {"rank": 2}}]
    folder = train(tuned(dataset, tmp_path / "run", base, stages), QUIET)
    before, after = weights(base / "instruct" / "checkpoint"), weights(folder)
    assert before.keys() == after.keys()
    name = next(name for name in before if "language" in name and name.endswith("q_proj.weight"))
    assert not torch.equal(before[name].float(), after[name].float())


def test_a_killed_run_resumes_to_the_same_bits(dataset, base, tmp_path, monkeypatch):
    expected = weights(train(tuned(dataset, tmp_path / "whole", base), QUIET))
    interrupt_at(monkeypatch, 2, die)
    with pytest.raises(KilledError):
        train(tuned(dataset, tmp_path / "run", base), QUIET)
    assert same(expected, weights(train(tuned(dataset, tmp_path / "run", base), QUIET)))


def killed(dataset, source, output, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, die)
        with pytest.raises(KilledError):
            train(tuned(dataset, output, source), QUIET)


def test_a_start_that_changed_meanwhile_is_refused(dataset, tmp_path, monkeypatch):
    checkpoint.save(tiny_vlm(seed=0), tmp_path / "model")
    killed(dataset, tmp_path / "model", tmp_path / "run", monkeypatch)
    recorded = read_json(tmp_path / "run" / "provenance.json")["start"]
    assert recorded.keys() == {"model.from"}
    shutil.rmtree(tmp_path / "model")
    checkpoint.save(tiny_vlm(seed=1), tmp_path / "model")
    with pytest.raises(RequestError, match=r"model\.from: .*model has changed since this run began"):
        train(tuned(dataset, tmp_path / "run", tmp_path / "model"), QUIET)


def test_the_record_of_a_run_is_read_back_to_the_same_recipe(dataset, base, tmp_path):
    recipe = tuned(dataset, tmp_path / "run", base)
    train(recipe, QUIET)
    assert load(tmp_path / "run") == recipe


REFUSED = {
    "the tower": ({"vision": {"layer": -1}}, r"model: vision\.layer: comes from the folder of model\.from"),
    "the fit": ({"vision": {"image_fit": "crop"}}, r"vision\.image_fit"),
    "the template": ({"language": {"template": "vicuna"}}, r"language\.template"),
    "the connector": ({"connector": {"depth": 3}}, r"connector\.depth"),
    "several": (
        {"language": {"from": "a/b"}, "vision": {"from": "a/c", "layer": -1}},
        r"vision\.from, vision\.layer, language\.from",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_folder_decides_is_refused_by_name(dataset, tmp_path, name):
    given, said = REFUSED[name]
    values = json.loads(make_recipe(dataset, tmp_path / "run").model_dump_json(by_alias=True))
    with pytest.raises(RequestError, match=said):
        from_values({**values, "model": {"from": "somewhere", **given}})


def test_a_base_recipes_modules_are_replaced_as_a_whole(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "name: base\nmodel: {vision: {from: a/b}, language: {from: c/d}}\ndata: {all: {json: x.json}}\n"
        "stages: [{name: a, train: [language], data: all, batch: 2, lr: 1.0}]\n"
    )
    assert load(tmp_path / "base.yaml", ["model={from: e/f}"]).model.from_ == "e/f"
    with pytest.raises(RequestError, match=r"vision\.from, language\.from: comes from .*'model=\{from: FOLDER\}'"):
        load(tmp_path / "base.yaml", ["model.from=e/f"])


def test_a_folder_of_another_layout_is_referred_to_import(dataset, tmp_path):
    checkpoint.save(tiny_vlm(), tmp_path / "model")
    (tmp_path / "model" / "olivine.json").unlink()
    with pytest.raises(RequestError, match=r"model\.from: .*olivine\.json is missing.*olivine import .*--output DIR"):
        train(tuned(dataset, tmp_path / "run", tmp_path / "model"), QUIET)
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_is_no_start(dataset, tmp_path, monkeypatch):
    checkpoint.save(tiny_vlm(), tmp_path / "model")
    killed(dataset, tmp_path / "model", tmp_path / "first", monkeypatch)
    with pytest.raises(RequestError, match="first: the run is not finished"):
        train(tuned(dataset, tmp_path / "second", tmp_path / "first"), QUIET)
    assert not (tmp_path / "second").exists()


def test_missing_weights_are_refused_before_data_are_read(dataset, tmp_path, monkeypatch):
    checkpoint.save(tiny_vlm(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    monkeypatch.setattr("olivine.training.recipe_data.read_samples", pytest.fail)
    assert read_samples is not pytest.fail
    with pytest.raises(RequestError, match=r"model\.from: .*no weights there"):
        train(tuned(dataset, tmp_path / "run", tmp_path / "model"), QUIET)


def test_a_damaged_start_is_refused(dataset, tmp_path):
    checkpoint.save(tiny_vlm(), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors: content differs from the checksum"):
        train(tuned(dataset, tmp_path / "run", tmp_path / "model"), QUIET)
    assert not (tmp_path / "run").exists()


def test_a_stages_template_that_the_start_cannot_write_is_refused_early(dataset, base, tmp_path):
    stages = [{**TUNE[0], "template": "llama3"}]
    with pytest.raises(RequestError, match=r"stages\.tune\.template"):
        train(tuned(dataset, tmp_path / "run", base, stages), QUIET)
    assert not (tmp_path / "run").exists()
