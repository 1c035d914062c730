"""What may change between two commands on one run directory, advice when memory runs out, and moved runs."""

import json
import os
import signal

import pytest
import torch
from test_resume import KilledError, die, killed_run, recipe_of
from tiny_runs import QUIET, interrupt_at, make_recipe, same, weights

from olivine.distributed import Processes
from olivine.errors import DataError, RequestError, RunError, Stopped
from olivine.files import read_json, read_json_lines
from olivine.recipe import from_values, load
from olivine.stop import StopSignal
from olivine.training import engine
from olivine.training.out_of_memory import is_out_of_memory
from olivine.training.recipe_data import RecipeData
from olivine.training.run import find_checkpoint, train, train_stage


@pytest.fixture(scope="module")
def expected(dataset, tmp_path_factory):
    return weights(train(recipe_of(dataset, tmp_path_factory.mktemp("whole") / "run"), QUIET))


SAME_BITS = {
    "checkpoint_activations": {"optimizer": {"checkpoint_activations": True}},
    "validate_every": {"stage": {"validate_every": 3}},
    "save_every": {"stage": {"save_every": 1}},
    "keep": {"stage": {"keep": 5}},
    "spike": {"optimizer": {"spike": 1e9}},
    "evaluate": {"evaluate": ["pope"]},
}


@pytest.mark.parametrize("field", SAME_BITS)
def test_fields_that_keep_the_bits_may_change(dataset, tmp_path, monkeypatch, expected, field):
    killed_run(dataset, tmp_path / "run", monkeypatch)
    changed = recipe_of(dataset, tmp_path / "run", **SAME_BITS[field])
    assert same(expected, weights(train(changed, QUIET)))
    assert "changes" not in read_json(tmp_path / "run" / "provenance.json")


def test_sequence_tokens_may_change_and_are_recorded(dataset, tmp_path, monkeypatch, expected):
    killed_run(dataset, tmp_path / "run", monkeypatch)
    found = weights(train(recipe_of(dataset, tmp_path / "run", stage={"sequence_tokens": 80}), QUIET))
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-3
    provenance = read_json(tmp_path / "run" / "provenance.json")
    assert provenance["changes"] == [{"stages.a.sequence_tokens": {"before": 160, "now": 80}}]


ANOTHER_OUTPUT = {
    "lr": {"stage": {"lr": 5e-3}},
    "batch": {"stage": {"batch": 3}},
    "steps": {"stage": {"steps": 9}},
    "seed": {"seed": 1},
    "precision": {"optimizer": {"precision": "bf16"}},
    "warmup": {"optimizer": {"warmup": 0.1}},
}


@pytest.mark.parametrize("field", ANOTHER_OUTPUT)
def test_a_changed_output_field_is_refused_by_name_with_both_values(dataset, tmp_path, monkeypatch, field):
    killed_run(dataset, tmp_path / "run", monkeypatch)
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    with pytest.raises(RequestError, match=rf"another recipe; different: .*{field} \(.* -> .*\), which decides \w+"):
        train(recipe_of(dataset, tmp_path / "run", **ANOTHER_OUTPUT[field]), QUIET)
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before


def test_data_may_move_but_not_change(dataset, tmp_path, monkeypatch, expected):
    killed_run(dataset, tmp_path / "run", monkeypatch)
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(dataset.read_bytes())
    recipe = recipe_of(dataset, tmp_path / "run")

    def at(path):
        source = recipe.data["all"].model_copy(update={"json_": path})
        return recipe.model_copy(update={"data": {"all": source}})

    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(dataset.read_text())[:-1]))
    with pytest.raises(RequestError, match="has changed since this run began"):
        train(at(other), QUIET)
    assert same(expected, weights(train(at(elsewhere), QUIET)))


def test_images_may_move_but_not_change(tmp_path, monkeypatch):
    from olivine.testing import write_dataset

    dataset = write_dataset(tmp_path / "data", items=30)
    whole = weights(train(recipe_of(dataset, tmp_path / "whole"), QUIET))
    for run in ("run", "other"):
        killed_run(dataset, tmp_path / run, monkeypatch)
        monkeypatch.undo()
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "data" / "images").rename(elsewhere)

    def at(run):
        recipe = recipe_of(dataset, tmp_path / run)
        source = recipe.data["all"].model_copy(update={"images": elsewhere})
        return recipe.model_copy(update={"data": {"all": source}})

    assert same(whole, weights(train(at("run"), QUIET)))
    assert "changes" not in read_json(tmp_path / "run" / "provenance.json")
    for image in elsewhere.iterdir():
        image.write_bytes(image.read_bytes() + b"more")
    with pytest.raises(RunError, match="has changed since this run first opened it"):
        train(at("other"), QUIET)


def test_the_advice_to_skip_broken_items_can_be_followed(tmp_path):
    from olivine.testing import write_dataset

    dataset = write_dataset(tmp_path / "data", items=30)
    (tmp_path / "data" / "images" / "0.png").write_bytes(b"no image")
    asked = {"stage": {"held_out": 0, "save_every": 1}}
    with pytest.raises(DataError, match="on_error: skip"):
        train(recipe_of(dataset, tmp_path / "run", **asked), QUIET)
    recipe = recipe_of(dataset, tmp_path / "run", **asked)
    source = recipe.data["all"].model_copy(update={"on_error": "skip"})
    train(recipe.model_copy(update={"data": {"all": source}}), QUIET)
    assert "unreadable image" in read_json(tmp_path / "run" / "a" / "result.json")["skipped"]
    sequences = read_json_lines(tmp_path / "run" / "a" / "audit.jsonl")
    assert [sequence["step"] for sequence in sequences] == list(range(8))


def test_skipping_from_a_later_step_is_recorded_and_gives_the_bits_of_skipping_from_the_first(tmp_path):
    from olivine.testing import llava_item, write_images

    names = write_images(tmp_path / "images", 48)
    items = [llava_item(str(n), [("what?", "a circle")], name) for n, name in enumerate(names)]
    dataset = tmp_path / "data.json"
    dataset.write_text(json.dumps(items))
    asked = {"stage": {"held_out": 0, "save_every": 1}}

    def skipping(run):
        recipe = recipe_of(dataset, tmp_path / run, **asked)
        source = recipe.data["all"].model_copy(update={"on_error": "skip"})
        return recipe.model_copy(update={"data": {"all": source}})

    train(recipe_of(dataset, tmp_path / "sound", **asked), QUIET)
    (late,) = [r for r in read_json_lines(tmp_path / "sound" / "a" / "audit.jsonl") if r["step"] == 5]
    broken = items[int(late["samples"][0])]["image"]
    (tmp_path / "images" / broken).write_bytes(b"no image")
    with pytest.raises(DataError, match="on_error: skip"):
        train(recipe_of(dataset, tmp_path / "run", **asked), QUIET)
    resumed = weights(train(skipping("run"), QUIET))
    changes = read_json(tmp_path / "run" / "provenance.json")["changes"]
    assert changes == [{"data.all.on_error": {"before": "stop", "now": "skip"}}]
    assert same(resumed, weights(train(skipping("skipped"), QUIET)))


def test_a_refused_lora_target_leaves_nothing_behind_and_can_be_corrected(dataset, tmp_path):
    pytest.importorskip("peft")

    def asked(*targets):
        stages = [{"name": "a", "train": ["connector", "language"], "steps": 1, "lora": {"targets": targets}}]
        return make_recipe(dataset, tmp_path / "run", stages=stages)

    with pytest.raises(RequestError, match=r"a\.lora\.targets all-linear: no such linear layer\. Valid: .*q_proj"):
        train(asked("all-linear"), QUIET)
    assert not (tmp_path / "run").exists()
    assert train(asked("q_proj"), QUIET).is_dir()


def test_a_later_stages_lora_target_is_refused_before_the_first_trains(dataset, tmp_path):
    pytest.importorskip("peft")
    stages = [
        {"name": "a", "train": ["connector"], "steps": 1},
        {"name": "b", "train": ["language"], "steps": 1, "lora": {"targets": ["qproj"]}},
    ]
    with pytest.raises(RequestError, match=r"stages\.b\.lora\.targets qproj"):
        train(make_recipe(dataset, tmp_path / "run", stages=stages), QUIET)
    assert not (tmp_path / "run").exists()


def test_a_later_stage_that_does_not_fit_its_data_is_refused_before_the_first_trains(tmp_path):
    from olivine.testing import llava_item

    dataset = tmp_path / "data.json"
    (tmp_path / "images").mkdir()
    dataset.write_text(json.dumps([llava_item(str(n), [("what?", "a circle")]) for n in range(12)]))
    stages = [
        {"name": "a", "train": ["connector", "language"], "steps": 1, "held_out": 0},
        {"name": "b", "train": ["vision"], "objective": "contrastive", "steps": 1},
    ]
    with pytest.raises(RequestError, match=r"stages\.b: objective contrastive needs one image in every sample"):
        train(make_recipe(dataset, tmp_path / "run", stages=stages), QUIET)
    assert not (tmp_path / "run").exists()


def test_a_studys_step_that_is_refused_leaves_no_record(dataset, tmp_path):
    pytest.importorskip("peft")
    stages = [
        {"name": "a", "train": ["connector"], "steps": 1},
        {"name": "b", "train": ["language"], "steps": 1, "lora": {"targets": ["qproj"]}},
    ]
    recipe = make_recipe(dataset, tmp_path / "run", stages=stages)
    for stage in recipe.stages:  # also the second stage's: the step before already has its model
        with pytest.raises(RequestError, match=r"stages\.b\.lora\.targets qproj"):
            train_stage(recipe, stage, None, tmp_path / stage.name, QUIET)
        assert not (tmp_path / stage.name).exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_sets_its_arithmetic(dataset, tmp_path, monkeypatch, rank):
    selected = []
    monkeypatch.setattr(engine, "choose_arithmetic", lambda *asked: selected.append(asked) or {})
    recipe = recipe_of(dataset, tmp_path / "run")
    with StopSignal() as stop:
        engine.open_run(recipe, RecipeData(recipe, QUIET), QUIET, Processes(rank, 2, rank), stop, tmp_path)
    assert selected == [("fp32", "cuda" if torch.cuda.is_available() else "cpu")]


def test_a_stage_that_has_not_begun_may_change(dataset, tmp_path, monkeypatch):
    first = {"name": "a", "train": ["connector"], "steps": 2, "validate_every": 0}
    second = {"name": "b", "steps": 2, "validate_every": 0}
    monkeypatch.setattr("olivine.training.engine.finish_stage", lambda *_, **__: die())
    with pytest.raises(KilledError):
        train(make_recipe(dataset, tmp_path / "run", stages=[first, second]), QUIET)
    monkeypatch.undo()
    train(make_recipe(dataset, tmp_path / "run", stages=[first, {**second, "lr": 1e-3}]), QUIET)
    with pytest.raises(RequestError, match=r"stages\.b\.lr \(0\.001 -> 0\.01\)"):
        train(make_recipe(dataset, tmp_path / "run", stages=[first, second]), QUIET)


# Memory

OUT_OF_MEMORY = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "the CPU's allocator": RuntimeError("[alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    "its other words": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    "Python": MemoryError(),
    "NumPy": MemoryError("Unable to allocate 8.00 GiB for an array"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_out_of_memory_says_what_to_lower_and_the_run_accepts_it(dataset, tmp_path, monkeypatch, kind):
    def fails():
        raise OUT_OF_MEMORY[kind]

    interrupt_at(monkeypatch, 4, fails)
    with pytest.raises(RunError, match="stage a: out of memory") as error:
        train(recipe_of(dataset, tmp_path / "run", stage={"sequence_tokens": 600}), QUIET)
    monkeypatch.undo()
    for setting in ("optimizer.checkpoint_activations=true", "stages.a.sequence_tokens=300", "more processes"):
        assert setting in str(error.value)
    assert "In a new run (output=DIR)" in str(error.value)
    assert "stages.a.lora={rank: 16}" in str(error.value)
    lower = {"stage": {"sequence_tokens": 300}, "optimizer": {"checkpoint_activations": True}}
    train(recipe_of(dataset, tmp_path / "run", **lower), QUIET)
    sequences = [
        sequence["step"] for sequence in read_json_lines(tmp_path / "run" / "a" / "metrics.jsonl") if "loss" in sequence
    ]
    assert sequences == list(range(8))


def test_other_errors_are_not_called_memory():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


# A run that was moved


@pytest.mark.parametrize("given", ["", "recipe.yaml"])
def test_a_moved_run_resumes_in_its_new_directory(dataset, tmp_path, monkeypatch, expected, given):
    interrupt_at(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        train(recipe_of(dataset, tmp_path / "old"), QUIET)
    (tmp_path / "old").rename(tmp_path / "new")
    recipe = load(tmp_path / "new" / given)
    assert recipe.run_directory == tmp_path / "new"
    assert same(expected, weights(train(recipe, QUIET)))
    assert not (tmp_path / "old").exists()
    assert find_checkpoint(tmp_path / "new") == tmp_path / "new" / "a" / "checkpoint"


def test_a_copied_runs_recipe_elsewhere_is_an_ordinary_one(dataset, tmp_path):
    recipe = recipe_of(dataset, tmp_path / "old")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load(tmp_path / "recipe.yaml").run_directory == tmp_path / "old"
    assert load(tmp_path / "recipe.yaml") == from_values(recipe.model_dump(by_alias=True))


def test_a_damaged_record_of_a_run_is_named(dataset, tmp_path):
    folder = train(recipe_of(dataset, tmp_path / "run", stage={"steps": 1}), QUIET)
    assert folder.is_dir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(RequestError, match=r"recipe\.yaml: not a run's record"):
        find_checkpoint(tmp_path / "run")


# Logs


def test_a_damaged_line_of_a_log_affects_no_other_line(dataset, tmp_path, monkeypatch, caplog):
    folder = killed_run(dataset, tmp_path / "run", monkeypatch)
    for name in ("metrics.jsonl", "audit.jsonl"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join([*lines[:2], "#" + lines[2][1:], *lines[3:]]))
    train(recipe_of(dataset, tmp_path / "run"), QUIET)
    said = caplog.text
    assert "metrics.jsonl: line 3 (Expecting value" in said
    assert "all other lines are kept" in said
    steps = [sequence["step"] for sequence in read_json_lines(folder / "metrics.jsonl") if "loss" in sequence]
    assert steps == [0, 1, 3, 4, 5, 6, 7]
    assert [sequence["step"] for sequence in read_json_lines(folder / "audit.jsonl")] == steps
    assert (folder / "metrics.jsonl.damaged").read_text().startswith("#")
