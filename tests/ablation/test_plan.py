"""Plans: configurations share steps, and a change renames the steps that depend on it and no others."""

import shutil
from pathlib import Path

import pytest
import yaml
from studies import write_study

from olivine.ablation.fingerprint import Fingerprints, digest
from olivine.ablation.plan import StageStep, make_plan
from olivine.ablation.study import load_study
from olivine.field_identity import Identity, decides
from olivine.recipe import DataRecipe, OptimizerRecipe, Recipe, StageRecipe


@pytest.fixture
def study_path(tmp_path):
    return write_study(tmp_path)


def keys(path, change=None):
    """(configuration -> keys of its steps by kind) after a change of the base recipe."""
    base = path.parent / "base.yaml"
    before = base.read_text()
    if change is not None:
        values = yaml.safe_load(before)
        change(values)
        base.write_text(yaml.safe_dump(values, sort_keys=False))
    try:
        plan = make_plan(load_study(path), Fingerprints())
    finally:
        base.write_text(before)
    return {
        configuration: {
            **{plan.steps[key].kind: key for key in chain},
            **{f"{n}/{c}": key for (k, s, n, c), key in plan.evaluations.items() if (k, s) == (configuration, seed)},
        }
        for (configuration, seed), chain in plan.stages.items()
    }


def changed(path, change):
    """Kinds of the steps that a change renames, in a configuration that aligns (all must agree)."""
    before, after = keys(path), keys(path, change)
    return {
        configuration: {kind for kind, key in steps.items() if after[configuration].get(kind) != key}
        for configuration, steps in before.items()
    }


ALL = {"align", "instruct", "exact-match/None", "exact-match/blind"}
FROM_INSTRUCT = ALL - {"align"}


def test_configurations_share_what_they_share(tmp_path):
    path = write_study(
        tmp_path,
        axes={
            "align": {"yes": {}, "no": {"stages.align.skip": True}},
            "rate": {"low": {}, "high": {"stages.instruct.lr": 0.01}},
        },
    )
    plan = make_plan(load_study(path))
    stages = [step for step in plan.steps.values() if isinstance(step, StageStep)]
    # One align stage for both rates; four instruct stages; two evaluations of each.
    assert sorted(step.kind for step in stages) == ["align", *["instruct"] * 4]
    assert len(plan.steps) == 5 + 8
    (align,) = [step for step in stages if step.kind == "align"]
    assert len(plan.used_by(align.key)) == 2
    order = list(plan.steps)
    assert all(order.index(step.after) < order.index(key) for key, step in plan.steps.items() if step.after)


def other(value):
    """A valid value that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    raise AssertionError(f"no other value known for {value!r}")


SPECIAL = {
    "objective": None,  # contrastive needs other modules; covered by the generic comparison of values
    "template": "vicuna",
    "image_fit": "crop",
    "lora": {"rank": 2},
    "steps": 3,
    "train": ["language"],
    "name": None,
    "data": None,
    "turns": "independent",
    "on_error": "skip",
    "format": None,  # has one value
    "schedule": "constant",
    "betas": [0.8, 0.9],
    "precision": "bf16",
    "augment": {"flip": True},
    "loss_weights": "sample",
    "vision_lora": None,  # the tower does not train here
    "marks": "in-place",
}


def keeps_bits(model, name):
    return decides(model, name).identity is Identity.SAME_BITS


def mutation(model, name):
    if name in SPECIAL:
        return SPECIAL[name]
    field = model.model_fields[name]
    return other(field.default if not field.is_required() else {"batch": 4, "lr": 1e-3}[name])


@pytest.mark.parametrize("name", StageRecipe.model_fields)
def test_a_stage_field_renames_that_stage_and_what_follows(study_path, name):
    value = mutation(StageRecipe, name)
    if name in ("skip", "epochs") or keeps_bits(StageRecipe, name):
        expected = set()  # `steps` is given and overrules epochs; a stage that is skipped is no step
        value = value if name != "skip" else False
    elif value is None:
        pytest.skip("no other value that fits this study")
    else:
        expected = FROM_INSTRUCT

    def change(values):
        values["stages"][1][name] = value

    assert all(kinds == expected for kinds in changed(study_path, change).values())


@pytest.mark.parametrize(
    # lora is for the language model, which does not train in align
    "name",
    [n for n in StageRecipe.model_fields if n not in ("skip", "epochs", "lora") and not keeps_bits(StageRecipe, n)],
)
def test_an_align_field_renames_nothing_where_align_is_skipped(study_path, name):
    value = mutation(StageRecipe, name)
    if value is None:
        pytest.skip("no other value that fits this study")

    def change(values):
        values["stages"][0][name] = value

    for (_, align), kinds in changed(study_path, change).items():
        assert kinds == (ALL if align == "yes" else set())


def test_epochs_count_where_steps_do_not(study_path):
    def without_steps(values, epochs=1.0):
        for stage in values["stages"]:
            del stage["steps"]
            stage["epochs"] = epochs

    one, two = keys(study_path, without_steps), keys(study_path, lambda v: without_steps(v, 2.0))
    assert all(one[configuration]["instruct"] != two[configuration]["instruct"] for configuration in one)


@pytest.mark.parametrize("name", [n for n in OptimizerRecipe.model_fields if not keeps_bits(OptimizerRecipe, n)])
def test_an_optimizer_field_renames_every_step(study_path, name):
    value = mutation(OptimizerRecipe, name) if name != "precision" else "bf16"

    def change(values):
        values["optimizer"][name] = value

    for (_, align), kinds in changed(study_path, change).items():
        assert kinds == (ALL if align == "yes" else ALL - {"align"})


@pytest.mark.parametrize(("name", "value"), [("spike", 5.0), ("checkpoint_activations", True)])
def test_fields_that_only_stop_a_run_or_save_memory_rename_nothing(study_path, name, value):
    def change(values):
        values["optimizer"][name] = value

    assert all(kinds == set() for kinds in changed(study_path, change).values())


@pytest.mark.parametrize("name", [n for n in DataRecipe.model_fields if n not in ("json_", "images", "format")])
def test_a_data_field_renames_the_stages_over_it(study_path, name):
    value = mutation(DataRecipe, name)

    def change(values):
        values["data"]["all"][name] = value

    for (_, align), kinds in changed(study_path, change).items():
        assert kinds == (ALL if align == "yes" else ALL - {"align"})


def test_a_source_that_only_the_tokenizer_reads_renames_by_its_texts_alone(study_path):
    extra = study_path.parent / "extra.json"
    shutil.copy(study_path.parent / "data" / "train.json", extra)

    def with_extra(values, **more):
        images = values["data"]["all"]["images"]
        values["data"]["extra"] = {"json": str(extra), "images": images, **more}

    first = keys(study_path, with_extra)
    assert first == keys(study_path, lambda v: with_extra(v, turns="independent"))
    assert first != keys(study_path, lambda v: with_extra(v, on_error="skip"))
    assert first != keys(study_path)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("vision", "layer", -1),
        ("vision", "image_fit", "squash"),
        ("vision", "mean", [0.1, 0.2, 0.3]),
        ("language", "template", "vicuna"),
        ("language", "tokenizer", {"vocab_size": 600}),
        ("connector", "depth", 1),
        ("connector", "activation", "relu"),
    ],
)
def test_a_model_field_renames_everything(study_path, section, name, value):
    def change(values):
        values["model"][section][name] = value

    for (_, align), kinds in changed(study_path, change).items():
        assert kinds == (ALL if align == "yes" else ALL - {"align"})


@pytest.mark.parametrize("name", [n for n in Recipe.model_fields if n not in ("model", "data", "stages", "optimizer")])
def test_the_remaining_fields_rename_nothing_but_by_the_seed(study_path, name):
    values = {
        "name": "other",
        "evaluate": ["gqa"],
        "seed": 5,
        "output": "elsewhere",
        "sharding": {"replicas": 2},  # a step is one process, which has nothing to shard
    }
    if name not in values:
        pytest.fail(f"recipe.{name} is new: say here what it decides")
    # The study sets name and seed itself.
    assert all(kinds == set() for kinds in changed(study_path, lambda v: v.update({name: values[name]})).values())


def test_seeds_share_nothing_that_is_trained(tmp_path):
    plan = make_plan(load_study(write_study(tmp_path, seeds=(0, 1))))
    assert all(len({seed for _, seed in plan.used_by(key)}) == 1 for key in plan.steps)


def test_another_benchmark_or_control_leaves_training_alone(study_path):
    before = keys(study_path)
    values = yaml.safe_load(study_path.read_text())
    values["controls"] = ["shuffled"]
    study_path.write_text(yaml.safe_dump(values, sort_keys=False))
    after = keys(study_path)
    for configuration, steps in before.items():
        assert steps["instruct"] == after[configuration]["instruct"]
        assert steps["exact-match/None"] == after[configuration]["exact-match/None"]


def test_files_are_identified_by_content_not_by_path(tmp_path):
    path = write_study(tmp_path)
    first = keys(path)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "data", moved)

    def elsewhere(values):
        values["data"]["all"].update(json=str(moved / "train.json"), images=str(moved / "images"))

    assert keys(path, elsewhere) == first
    (moved / "train.json").write_text((moved / "train.json").read_text() + " ")
    assert keys(path, elsewhere) != first


def test_an_image_that_grew_is_noticed(tmp_path):
    path = write_study(tmp_path)
    first = keys(path)
    with (tmp_path / "data" / "images" / "0.png").open("ab") as file:
        file.write(b"more")
    second = keys(path)
    assert all(
        first[configuration][kind] != second[configuration][kind]
        for configuration in first
        for kind in first[configuration]
    )


def test_a_local_backbone_is_identified_by_its_content(study_path, tmp_path):
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")

    def with_backbone(values):
        values["model"]["vision"]["from"] = str(folder)

    first = keys(study_path, with_backbone)
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert keys(study_path, with_backbone) != first


def test_missing_data_are_listed_and_the_plan_still_shown(study_path):
    shutil.rmtree(study_path.parent / "asked")
    plan = make_plan(load_study(study_path))
    assert [p.name for p in plan.missing] == ["asked"]
    assert len(plan.steps) == 2 + 4 + 8


def test_hashes_are_kept_between_runs(tmp_path, monkeypatch):
    file, memory = tmp_path / "x.json", tmp_path / "memory.json"
    file.write_text("[]")
    prints = Fingerprints(memory)
    first = prints.of(file)
    prints.remember()
    monkeypatch.setattr("olivine.ablation.fingerprint.sha256_of_file", lambda path: pytest.fail("read again"))
    assert Fingerprints(memory).of(file) == first
    memory.write_text("{")
    monkeypatch.undo()
    assert Fingerprints(memory).of(file) == first


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
    assert len(digest(str(Path("x")))) == 16


def test_shards_are_identified_without_reading_them_whole(tmp_path, monkeypatch):
    import io
    import json
    import tarfile

    def write(text):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": text}]
            content = json.dumps({"conversations": turns}).encode()
            info = tarfile.TarInfo("1.json")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        return Fingerprints().of_source(DataRecipe.model_validate({"format": "webdataset", "path": tmp_path}))

    monkeypatch.setattr("olivine.ablation.fingerprint.sha256_of_file", lambda path: pytest.fail(f"read {path}"))
    assert write("a word") != write("some more words")


NOT_DEFAULT = [
    lambda values: values["stages"][0].update(validate_every=7),
    lambda values: values["stages"][1].update(validate_every=7),
    lambda values: values["optimizer"].update(checkpoint_activations=True),
]


def stands_as_before(values):
    """Set the fields that earlier versions' identities had to their defaults."""
    for stage in values["stages"]:
        stage["validate_every"] = 200


def as_named_before(recipe, step, after):
    """The rule of earlier versions, unchanged: everything except the fields in these sets."""
    dumped = recipe.model_dump(mode="json", by_alias=True)
    apart = {"name", "output", "evaluate", "model", "data", "stages", "sharding"}
    shared = {key: value for key, value in dumped.items() if key not in apart}
    shared["optimizer"] = {key: value for key, value in shared["optimizer"].items() if key != "spike"}
    free = {"save_every", "keep", "skip", "epochs"}  # steps are given
    stage = {key: v for key, v in step.stage.model_dump(mode="json", by_alias=True).items() if key not in free}
    stage["row_tokens"] = stage.pop("sequence_tokens")  # as the field was called
    assert [stage.pop(key) for key in ("loss_weights", "vision_lora")] == [None, None]  # came later
    source = recipe.data[step.stage.data]
    data = {
        k: v for k, v in source.model_dump(mode="json", by_alias=True).items() if k not in ("json", "images", "marks")
    }
    content = {key: step.identity["data"][key] for key in ("json", "images")}
    start = {"after": after} if after else {key: step.identity[key] for key in ("model", "texts")}
    about = {"format": 2, "kind": "stage", **start, "stage": stage, "data": data | content, **shared}
    return f"{step.stage.name}-{digest(about)}"


@pytest.mark.parametrize("change", [stands_as_before, *NOT_DEFAULT])
def test_earlier_names_are_those_that_the_earlier_rule_gave(study_path, change):
    base = study_path.parent / "base.yaml"
    values = yaml.safe_load(base.read_text())
    stands_as_before(values)
    change(values)
    base.write_text(yaml.safe_dump(values))
    study = load_study(study_path)
    plan = make_plan(study, Fingerprints())
    for used, keys_ in plan.stages.items():
        after = None
        for key in keys_:
            after = as_named_before(study.recipes[used], plan.steps[key], after)
            assert plan.steps[key].earlier == after
    if change is stands_as_before:  # all fields of the earlier identities have their defaults: the names are the same
        assert all(step.earlier == step.key for step in plan.steps.values() if isinstance(step, StageStep))


@pytest.mark.parametrize("change", NOT_DEFAULT)
def test_steps_under_the_names_of_earlier_versions_are_found(study_path, change):
    base = study_path.parent / "base.yaml"
    values = yaml.safe_load(base.read_text())
    stands_as_before(values)
    base.write_text(yaml.safe_dump(values))
    before = make_plan(load_study(study_path), Fingerprints())
    change(values)
    base.write_text(yaml.safe_dump(values))
    plan = make_plan(load_study(study_path), Fingerprints())
    assert plan.steps.keys() == before.steps.keys()  # same bits: the same steps
    stages = [step for step in plan.steps.values() if isinstance(step, StageStep)]
    earlier = {step.key: step for step in stages if step.earlier != step.key}
    assert earlier
    for step in earlier.values():
        folder = step.folder.with_name(step.earlier)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
    found = make_plan(load_study(study_path), Fingerprints())
    assert all(found.steps[key].done and found.steps[key].folder.name == step.earlier for key, step in earlier.items())
    for key, step in earlier.items():
        step.folder.mkdir()
        assert make_plan(load_study(study_path), Fingerprints()).steps[key].folder == step.folder
