"""Resuming and studies read the identity class of every recipe field from the field itself, and agree on each."""

import copy
import json
import re

import pytest

from olivine.ablation import plan as plan_module
from olivine.ablation.fingerprint import Fingerprints, digest
from olivine.ablation.step_identity import evaluation_identity
from olivine.ablation.study import BenchmarkRecipe
from olivine.errors import RequestError
from olivine.field_identity import Identity, decides, fields
from olivine.recipe import RECIPE, Recipe, VisionLoraRecipe, change
from olivine.testing import tiny_model_recipe
from olivine.training.identity import check_same_recipe
from olivine.training.log import METRICS, MODULE_NAMES

#: Another valid value of every field of a recipe; `*` is the source `all` or the stage `b`.
OTHER = {
    "name": "other",
    "model.from": "elsewhere/model",
    "model.vision.from": "elsewhere/tower",
    "model.vision.fused": ["elsewhere/tower", "elsewhere/other"],
    "model.vision.layer": -1,
    "model.vision.registers": "drop",
    "model.vision.resample": "bilinear",
    "model.vision.image_fit": "squash",
    "model.vision.image_size": 32,
    "model.vision.mean": [0.1, 0.2, 0.3],
    "model.vision.std": [0.1, 0.2, 0.3],
    "model.language.from": "elsewhere/language",
    "model.language.tokenizer": "elsewhere/tokenizer",
    "model.language.tokenizer.vocab_size": 600,
    "model.language.template": "vicuna",
    "model.connector.kind": "pixel-shuffle",
    "model.connector.from": "elsewhere/connector",
    "model.connector.factor": 3,
    "model.connector.queries": 3,
    "model.connector.depth": 3,
    "model.connector.activation": "relu",
    "data.*.format": "webdataset",
    "data.*.json": None,  # a path: the test puts the same content there
    "data.*.images": None,
    "data.*.turns": "independent",
    "data.*.marks": "in-place",
    "data.*.on_error": "skip",
    "data.*.max_length": 99,
    "data.*.augment.flip": True,
    "data.*.augment.shift": 2,
    "stages.*.name": "other",
    "stages.*.train": ["language"],
    "stages.*.data": "more",
    "stages.*.objective": "contrastive",
    "stages.*.template": "vicuna",
    "stages.*.image_fit": "crop",
    "stages.*.batch": 3,
    "stages.*.lr": 0.5,
    "stages.*.epochs": 3.0,
    "stages.*.steps": 7,
    "stages.*.skip": True,
    "stages.*.loss_weights": "sqrt",
    "stages.*.lora": None,
    "stages.*.lora.rank": 3,
    "stages.*.lora.alpha": 3.0,
    "stages.*.lora.quantize": "nf4",
    "stages.*.lora.targets": ["q_proj"],
    "stages.*.vision_lora": {"rank": 2},
    "stages.*.vision_lora.rank": 3,
    "stages.*.vision_lora.alpha": 3.0,
    "stages.*.vision_lora.targets": ["q_proj"],
    "stages.*.sequence_tokens": 99,
    "stages.*.held_out": 3,
    "stages.*.validate_every": 3,
    "stages.*.save_every": 3,
    "stages.*.keep": 3,
    "optimizer.schedule": "constant",
    "optimizer.warmup": 0.2,
    "optimizer.weight_decay": 0.2,
    "optimizer.clip": 0.2,
    "optimizer.betas": [0.5, 0.6],
    "optimizer.epsilon": 0.2,
    "optimizer.precision": "fp32",
    "optimizer.spike": 3.0,
    "optimizer.checkpoint_activations": True,
    "optimizer.compile": True,
    "sharding.replicas": 2,
    "sharding.gather_twice": False,
    "sharding.sum_each_sequence": True,
    "evaluate": ["gqa"],
    "seed": 5,
    "output": "elsewhere",
}
#: Collections and sections, whose entries are in the table individually; options that only connectors of other packages
#: have.
NOT_CHANGED = {"data", "stages", "model.vision", "model.language", "model.connector", "model.connector.options"}
#: Sections in which a field can have another value.
BEFORE = {
    "model.language.tokenizer.vocab_size": ("model.language.tokenizer", {"vocab_size": 1024}),
    "model.connector.kind": ("model.connector", {"kind": "pool"}),
    "model.connector.factor": ("model.connector", {"kind": "pool"}),
    "model.connector.queries": ("model.connector", {"kind": "resampler"}),
    **{f"stages.*.vision_lora.{name}": ("stages.b.vision_lora", {"rank": 2}) for name in VisionLoraRecipe.model_fields},
}


@pytest.fixture
def values(tmp_path):
    content = json.dumps([])
    for folder in ("here", "there"):
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "data.json").write_text(content)
    source = {"json": str(tmp_path / "here" / "data.json"), "images": str(tmp_path / "here" / "images")}
    stage = {"train": ["language"], "data": "all", "batch": 4, "lr": 1e-3, "lora": {}}
    return {
        "name": "tiny",
        "model": tiny_model_recipe().model_dump(by_alias=True, mode="json"),
        "data": {"all": source, "more": dict(source)},
        "stages": [{"name": "a", **stage}, {"name": "b", **stage, "train": list(MODULE_NAMES)}],
    }


def changed(values, key, tmp_path):
    """The recipe with another value of one field."""
    there = {"data.*.json": str(tmp_path / "there/data.json"), "data.*.images": str(tmp_path / "there/images")}
    other = copy.deepcopy(values)
    if key == "stages.*.objective":  # it trains the tower alone
        other["stages"][1] |= {"train": ["vision"], "lora": None}
    if key == "model.from":  # in place of all sections
        other["model"] = {}
    if key == "model.vision.fused":  # in place of the one tower
        other["model"]["vision"]["from"] = None
    change(other, full(key), there.get(key, OTHER[key]), key)
    return Recipe.model_validate(other)


def full(key):
    return key.replace("data.*", "data.all").replace("stages.*", "stages.b")


def as_resuming_sees_it(before, now, folder):
    """Return the class that a run that has begun both stages assigns to a change."""
    for stage in before.stages:
        (folder / stage.name).mkdir(parents=True)
        (folder / stage.name / METRICS).write_text("{}\n")
    (folder / RECIPE).write_text(before.to_yaml())
    try:
        recorded = check_same_recipe(folder, now)
    except RequestError as error:
        return Identity.ANOTHER_OUTPUT, str(error)
    return (Identity.SAME_MATHEMATICS if recorded else Identity.SAME_BITS), [change.key for change in recorded]


def names(recipe, folder):
    return [step.key for step in plan_module._stage_steps(recipe, folder, Fingerprints(), frozenset())]


def test_every_field_of_the_schema_has_another_value_here():
    assert OTHER.keys() | NOT_CHANGED == {key for key, _ in fields(Recipe)}


@pytest.mark.parametrize("key", OTHER)
def test_resuming_and_studies_take_a_change_by_the_fields_class(values, tmp_path, monkeypatch, key):
    monkeypatch.setattr(Fingerprints, "of_source", lambda prints, source: prints.of(source.json_))  # of any format
    if key in BEFORE:
        change(values, *BEFORE[key], key)
    before, now = Recipe.model_validate(values), changed(values, key, tmp_path)
    assert before != now
    declared = dict(fields(Recipe))[key]
    assert decides(Recipe, full(key)) == declared

    resumed, said = as_resuming_sees_it(before, now, tmp_path / "run")
    assert resumed is declared.identity
    if resumed is Identity.ANOTHER_OUTPUT:
        assert re.search(re.escape(full(key)) + r"(\.0)? \(", said)
        assert f"which decides {declared.what}" in said
    elif resumed is Identity.SAME_MATHEMATICS:
        assert said == [full(key)]

    counts = names(before, tmp_path) != names(now, tmp_path)
    # A step is one process, which has nothing to shard.
    assert counts == (declared.identity is not Identity.SAME_BITS and not key.startswith("sharding."))


def test_steps_override_epochs_for_both(values, tmp_path):
    values["stages"][1]["steps"] = 4
    before, now = Recipe.model_validate(values), changed(values, "stages.*.epochs", tmp_path)
    assert as_resuming_sees_it(before, now, tmp_path / "run") == (Identity.SAME_BITS, [])
    assert names(before, tmp_path) == names(now, tmp_path)


def test_a_source_that_only_a_later_stage_reads_may_change_until_that_stage_begins(values, tmp_path):
    values["model"]["language"]["tokenizer"] = "given"
    values["stages"][1]["data"] = "more"
    before = Recipe.model_validate(values)
    values["data"]["more"]["max_length"] = 99
    now = Recipe.model_validate(values)
    run = tmp_path / "run"
    (run / "a").mkdir(parents=True)
    (run / "a" / METRICS).write_text("{}\n")
    (run / RECIPE).write_text(before.to_yaml())
    assert check_same_recipe(run, now) == []
    (run / "b").mkdir()
    (run / "b" / METRICS).write_text("{}\n")
    with pytest.raises(RequestError, match=r"data\.more\.max_length \(2048 -> 99\)"):
        check_same_recipe(run, now)
    first, second = names(before, tmp_path), names(now, tmp_path)
    assert first[0] == second[0]
    assert first[1] != second[1]


ASKED = {
    "data": None,
    "images": None,
    "prompt": "{question} Answer:",
    "variant": "strict",
    "judge": "rule",
    "options": {"template": "{question}"},
}


@pytest.mark.parametrize("name", BenchmarkRecipe.model_fields)
def test_an_evaluation_counts_what_its_fields_say(tmp_path, monkeypatch, name):
    monkeypatch.setattr(BenchmarkRecipe, "option_paths", lambda *_: {})
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    before = {"data": str(tmp_path / "here"), "images": str(tmp_path / "here")}
    now = {**before, name: ASKED[name] or str(tmp_path / "there")}
    first, second = (
        digest(evaluation_identity("a", "gqa", BenchmarkRecipe.model_validate(asked), None, Fingerprints()))
        for asked in (before, now)
    )
    assert (first != second) == (decides(BenchmarkRecipe, name).identity is not Identity.SAME_BITS)
