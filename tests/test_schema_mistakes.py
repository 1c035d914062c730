"""Suggestions for a wrong key or value come from its own section, in every way that a key can be given."""

import pytest
import yaml

from olivine.ablation.study import load_study
from olivine.errors import RequestError, nearest_name
from olivine.recipe import from_values, load
from test_recipe import MINIMAL


def said_of(tmp_path, overrides=(), **more):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **more}))
    with pytest.raises(RequestError) as error:
        load(path, overrides)
    return str(error.value)


ELSEWHERE = {
    "stages.align.lora.dropout=0.1": ["no such setting", "Valid: alpha, quantize, rank, targets."],
    "stages.align.lora.lr=0.1": ["It is a key of stages.NAME, not of this section", "Valid: alpha"],
    "stages.align.lora.rnk=8": ["Did you mean 'rank'?"],
    "optimizer.lr=1": ["It is a key of stages.NAME, not"],
    "stages.align.clip=1": ["It is a key of optimizer, not"],
    "lr=1": ["It is a key of stages.NAME, not"],
    "model.lora={rank: 8}": ["It is a key of stages.NAME, not"],
    "stages.align.on_error=skip": ["It is a key of data.NAME, not"],
    "data.captions.flip=true": ["It is a key of data.NAME.augment, not"],
    "model.connector.layers=2": ["no such setting", "Valid: activation, depth, factor, from, kind, options, queries."],
    "model.language.tokenizer={size: 600}": ["Valid: vocab_size."],
    "data.captoins.turns=independent": ["data: unknown name 'captoins'", "Did you mean 'captions'?"],
}


@pytest.mark.parametrize("override", ELSEWHERE)
def test_an_override_is_answered_with_keys_of_its_own_section(tmp_path, override):
    said = said_of(tmp_path, [override])
    for word in ELSEWHERE[override]:
        assert word in said
    assert "held_out" not in said.partition("Valid:")[0]


def test_a_key_in_the_file_gets_the_same_suggestion(tmp_path):
    stages = [{**MINIMAL["stages"][0], "train": ["language"], "lora": {"dropout": 0.1}}]
    assert "stages.align.lora.dropout: unknown name 'dropout'. There is no such setting." in said_of(
        tmp_path, stages=stages
    )


def test_a_studys_level_gets_the_same_suggestion(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(MINIMAL))
    study = {
        "name": "s",
        "base": "base.yaml",
        "axes": {"a": {"x": {}, "y": {"stages.align.lora.dropout": 0.1}}},
        "benchmarks": {"gqa": "data"},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(RequestError, match=r"lora\.dropout.*no such setting.*Valid: alpha, quantize"):
        load_study(tmp_path / "study.yaml")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | {"resources": {"gpu": 1}}))
    with pytest.raises(RequestError, match=r"resources\.gpu.*Did you mean 'gpus'.*Valid: cpus, gpus"):
        load_study(tmp_path / "study.yaml")


def test_names_that_share_half_their_letters_are_not_suggested():
    assert nearest_name("dropout", ["held_out", "lr"]) is None
    assert nearest_name("fit", ["image_fit", "layer"]) == "image_fit"
    assert nearest_name("on", ["yes", "no"]) == "no"
    assert nearest_name("warm_up", ["warmup", "clip"]) == "warmup"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.align.lr=.inf", "finite"),
        ("stages.align.lr=.nan", "finite"),
        ("stages.align.batch=true", "expected a number"),
        ("stages.align.steps=yes", "expected a number"),
        ("seed=010", "not a decimal number"),
        ('output="a\\0b"', "U+0000"),
        ("name={a: 1, a: 2}", "given twice"),
    ],
)
def test_values_that_would_be_misread_are_refused(tmp_path, override, says):
    assert says in said_of(tmp_path, [override])


def test_an_override_given_twice_is_refused(tmp_path):
    said = said_of(tmp_path, ["seed=1", "stages.align.lr=1", "seed=2"])
    assert "override seed is given twice" in said


def test_a_section_that_is_turned_off_can_be_set_from_a_runs_own_record(tmp_path):
    recipe = from_values(MINIMAL)
    (tmp_path / "record.yaml").write_text(recipe.to_yaml())
    loaded = load(tmp_path / "record.yaml", ["stages.instruct.lora.rank=8"])
    assert loaded.stages[1].lora.rank == 8


@pytest.mark.parametrize(
    "text", ["align: {yes: {}, 'yes': {seed: 1}, no: {}}", "1: {a: {}, b: {}}, '1': {c: {}, d: {}}"]
)
def test_levels_and_axes_that_are_one_name_in_two_spellings_are_refused(tmp_path, text):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(MINIMAL))
    (tmp_path / "study.yaml").write_text(f"name: s\nbase: base.yaml\naxes: {{{text}}}\nbenchmarks: {{gqa: data}}\n")
    with pytest.raises(RequestError, match="the same name, written in two ways"):
        load_study(tmp_path / "study.yaml")


def test_a_study_with_a_key_twice_names_the_line(tmp_path):
    (tmp_path / "study.yaml").write_text("name: s\nbase: base.yaml\nseeds: [0]\nseeds: [1]\n")
    with pytest.raises(RequestError, match=r"study\.yaml: not valid YAML at line 4.*'seeds' is given twice"):
        load_study(tmp_path / "study.yaml")
