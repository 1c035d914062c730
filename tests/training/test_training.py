"""Training a tiny model for a few steps: only trained modules change, a seed fixes the bits, a killed run resumes."""

import json
import math

import pytest
import torch
from tiny_runs import QUIET, make_recipe, same, weights

from olivine.errors import RequestError, RunError
from olivine.files import read_json, read_json_lines
from olivine.model import checkpoint
from olivine.model.build import build
from olivine.recipe import OptimizerRecipe, Recipe
from olivine.testing import tiny_model_recipe, write_dataset
from olivine.training import stage as stage_module
from olivine.training.held_out import split_held_out
from olivine.training.optimizer import learning_rate, make_optimizer
from olivine.training.run import find_checkpoint, train


@pytest.fixture(scope="module")
def whole_run(dataset, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "run"
    train(make_recipe(dataset, output), QUIET)
    return output


def test_only_the_stages_modules_change(whole_run):
    before = build(tiny_model_recipe(), seed=0, texts=lambda: ()).model.state_dict()
    align, instruct = (weights(whole_run / name / "checkpoint") for name in ("align", "instruct"))

    def moved(old, new):
        return {name.split(".")[1] for name in old if not torch.equal(old[name], new[name])}

    assert moved(before, align) == {"multi_modal_projector"}
    assert moved(align, instruct) == {"multi_modal_projector", "language_model", "weight"}


def test_the_run_directory_has_what_reproduces_it(whole_run, dataset):
    provenance = read_json(whole_run / "provenance.json")
    assert provenance["seed"] == 0
    assert {"torch", "transformers", "olivine"} <= provenance["packages"].keys()
    assert len(provenance["data"]["all"]["sha256"]) == 64
    assert provenance["data"]["all"]["samples"] == 30
    sequences = read_json_lines(whole_run / "instruct" / "metrics.jsonl")
    losses = [sequence["loss"] for sequence in sequences if "loss" in sequence]
    assert len(losses) == 6
    assert all(sequence["labels"] > 0 for sequence in sequences if "labels" in sequence)
    assert sequences[-1]["held_out_loss"] > 0
    assert losses[-1] < losses[0]
    assert find_checkpoint(whole_run) == whole_run / "instruct" / "checkpoint"
    assert find_checkpoint(whole_run / "align") == whole_run / "align" / "checkpoint"


def test_the_same_seed_gives_the_same_bits_and_another_does_not(whole_run, dataset, tmp_path):
    again = train(make_recipe(dataset, tmp_path / "again"), QUIET)
    assert same(weights(whole_run / "instruct" / "checkpoint"), weights(again))
    other = train(make_recipe(dataset, tmp_path / "other", seed=1), QUIET)
    assert not same(weights(whole_run / "instruct" / "checkpoint"), weights(other))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("at", [2, 4, 5, 8])
def test_a_killed_run_resumes_to_the_same_bits(whole_run, dataset, tmp_path, monkeypatch, at):
    """Killed in the middle of stage 1, just after a training checkpoint, and twice in stage 2."""
    stages = [
        {"name": "align", "train": ["connector"], "steps": 3, "save_every": 1},
        {"name": "instruct", "steps": 6, "save_every": 2},
    ]
    recipe = make_recipe(dataset, tmp_path / "run", stages=stages)
    taken = []
    original = stage_module.Stage._step

    def step(self, number, batch, waited, log):
        taken.append((self.stage.name, number))
        if len(taken) == at:
            raise KilledError
        return original(self, number, batch, waited, log)

    monkeypatch.setattr(stage_module.Stage, "_step", step)
    with pytest.raises(KilledError):
        train(recipe, QUIET)
    folder = train(recipe, QUIET)
    assert same(weights(whole_run / "instruct" / "checkpoint"), weights(folder))
    sequences = read_json_lines(folder.parent / "metrics.jsonl")
    assert [sequence["step"] for sequence in sequences if "loss" in sequence] == list(range(6))
    assert not (folder.parent / "resume").exists()


def test_a_finished_run_is_not_run_again(whole_run, dataset, monkeypatch):
    monkeypatch.setattr(stage_module.Stage, "run", lambda self: pytest.fail("ran again"))
    assert train(make_recipe(dataset, whole_run), QUIET) == whole_run / "instruct" / "checkpoint"


def test_bf16_stages_resume_from_their_checkpoints_to_the_same_bits(dataset, tmp_path, monkeypatch):
    recipe = make_recipe(dataset, tmp_path / "one", optimizer={"precision": "bf16"})
    expected = weights(train(recipe, QUIET))
    assert all(w.dtype == torch.bfloat16 for w in expected.values())
    second = make_recipe(dataset, tmp_path / "two", optimizer={"precision": "bf16"})
    original = stage_module.Stage.run
    calls = []

    def run(self):
        calls.append(self.stage.name)
        if calls == ["align", "instruct"]:
            raise KilledError
        return original(self)

    monkeypatch.setattr(stage_module.Stage, "run", run)
    with pytest.raises(KilledError):
        train(second, QUIET)
    assert same(expected, weights(train(second, QUIET)))


def test_another_recipe_or_other_data_in_the_same_directory_is_refused(dataset, tmp_path):
    own = write_dataset(tmp_path / "own", items=30)
    stages = [{"name": "align", "steps": 1}]
    train(make_recipe(own, tmp_path / "run", stages=stages), QUIET)
    with pytest.raises(RequestError, match=r"different: seed \(.*\).* stages\.align\.lr"):
        train(make_recipe(own, tmp_path / "run", stages=[{**stages[0], "lr": 1e-4}], seed=9), QUIET)
    sequences = json.loads(own.read_text())
    own.write_text(json.dumps(sequences[1:]))
    with pytest.raises(RequestError, match="has changed since this run began"):
        train(make_recipe(own, tmp_path / "run", stages=stages), QUIET)


def test_a_loss_that_is_not_finite_stops_and_names_the_samples(dataset, tmp_path):
    recipe = make_recipe(
        dataset, tmp_path / "run", stages=[{"name": "a", "steps": 30, "lr": 1e30}], optimizer={"clip": 0}
    )
    with pytest.raises(RunError, match=r"bad_batch\.json"):
        train(recipe, QUIET)
    bad = read_json(tmp_path / "run" / "a" / "bad_batch.json")
    assert len(bad["samples"]) == 6
    assert not (tmp_path / "run" / "a" / "checkpoint").exists()


def test_a_batch_without_labels_stops_and_says_why(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.data.batches.Batch.labels", 0)
    with pytest.raises(RunError, match=r"no token of the batch is supervised.*olivine data check"):
        train(make_recipe(dataset, tmp_path / "run"), QUIET)


def test_how_a_batch_is_packed_does_not_change_the_gradient(dataset, tmp_path):
    """One long sequence or many short ones: the loss is weighted by labels, not by sequences."""

    def first_step(sequence_tokens, name):
        stages = [{"name": "a", "steps": 1, "sequence_tokens": sequence_tokens, "batch": 20, "held_out": 0}]
        train(make_recipe(dataset, tmp_path / name, stages=stages), QUIET)
        sequence = read_json_lines(tmp_path / name / "a" / "metrics.jsonl")[0]
        return sequence["loss"], sequence["grad_norm"]

    loss, norm = first_step(4096, "long")
    for sequence_tokens in (30, 150):
        other_loss, other_norm = first_step(sequence_tokens, f"short{sequence_tokens}")
        assert math.isclose(loss, other_loss, rel_tol=1e-6)
        assert math.isclose(norm, other_norm, rel_tol=1e-5)


def test_validation_writes_loss_and_two_answers(dataset, tmp_path):
    stages = [{"name": "a", "steps": 4, "validate_every": 2}]
    folder = train(make_recipe(dataset, tmp_path / "run", stages=stages), QUIET).parent
    sequences = [sequence for sequence in read_json_lines(folder / "metrics.jsonl") if "held_out_loss" in sequence]
    assert [sequence["step"] for sequence in sequences] == [1, 3, 4]
    samples = read_json_lines(folder / "samples.jsonl")
    assert len(samples) == 4
    assert samples[0].keys() == {"step", "sample", "question", "answer", "truth"}


def test_validating_changes_no_bit_of_the_training(dataset, tmp_path):
    plain = make_recipe(dataset, tmp_path / "a", stages=[{"name": "s", "steps": 4, "validate_every": 0}])
    validated = make_recipe(dataset, tmp_path / "b", stages=[{"name": "s", "steps": 4, "validate_every": 1}])
    assert same(weights(train(plain, QUIET)), weights(train(validated, QUIET)))


def test_contrastive_trains_the_tower_and_needs_images(dataset, tmp_path):
    stages = [{"name": "look", "train": ["vision"], "objective": "contrastive", "steps": 2}]
    with pytest.raises(RequestError, match="needs one image in every sample"):
        train(make_recipe(dataset, tmp_path / "refused", stages=stages), QUIET)
    own = tmp_path / "own" / "train.json"
    write_dataset(own.parent, items=30)
    own.write_text(json.dumps([sequence for sequence in json.loads(own.read_text()) if "image" in sequence]))
    result = train(make_recipe(own, tmp_path / "run", stages=stages), QUIET)
    before, after = build(tiny_model_recipe(), seed=0, texts=lambda: ()).model.state_dict(), weights(result)
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"vision_tower"}


def test_a_broken_held_out_image_does_not_stop_a_run_that_skips(tmp_path):
    own = write_dataset(tmp_path / "own", items=30)
    sequences = [sequence for sequence in json.loads(own.read_text()) if "image" in sequence]
    own.write_text(json.dumps(sequences))
    stages = [{"name": "a", "steps": 2, "validate_every": 1}]
    values = make_recipe(own, tmp_path / "run", stages=stages).model_dump(by_alias=True)
    values["data"]["all"]["on_error"] = "skip"
    held_out = split_held_out(sequences, 64, 0, "all")[1]
    for sequence in held_out:
        (own.parent / "images" / sequence["image"]).write_bytes(b"\x89PNG broken")
    folder = train(Recipe.model_validate(values), QUIET)
    assert read_json(folder.parent / "result.json")["held_out_loss"] is None

    for path in (own.parent / "images").iterdir():
        path.write_bytes(b"\x89PNG broken")
    values["output"] = tmp_path / "nothing"
    with pytest.raises(RunError, match="every sample was skipped"):
        train(Recipe.model_validate(values), QUIET)


def test_a_source_that_only_the_tokenizer_read_is_recorded_too(dataset, tmp_path):
    values = make_recipe(dataset, tmp_path / "run", stages=[{"name": "a", "steps": 1}]).model_dump(by_alias=True)
    values["data"]["unused"] = values["data"]["all"]
    train(Recipe.model_validate(values), QUIET)
    assert read_json(tmp_path / "run" / "provenance.json")["data"].keys() == {"all", "unused"}


def test_depth_one_keeps_its_identity(dataset, tmp_path):
    folder = train(make_recipe(dataset, tmp_path / "run", depth=1), QUIET)
    connector = checkpoint.load(folder).connector
    assert torch.equal(connector.linear_2.weight, torch.eye(32))
    assert connector.linear_2.bias.abs().max() == 0


def test_a_skipped_stage_leaves_no_trace(dataset, tmp_path):
    stages = [{"name": "align", "steps": 2, "skip": True}, {"name": "instruct", "steps": 1}]
    folder = train(make_recipe(dataset, tmp_path / "run", stages=stages), QUIET)
    assert folder == tmp_path / "run" / "instruct" / "checkpoint"
    assert not (tmp_path / "run" / "align").exists()


def test_held_out_samples_are_the_same_in_every_stage_and_never_trained_on(dataset):
    samples = list(range(100))
    training, held_out = split_held_out(samples, 8, 3, "all")
    assert len(held_out) == 8
    assert sorted(training + held_out) == samples
    assert split_held_out(samples, 8, 3, "all")[1] == held_out
    assert split_held_out(samples, 64, 3, "all")[1] != held_out
    assert len(split_held_out(samples, 64, 3, "all")[1]) == 10, "at most a tenth"


def test_schedule_by_hand():
    recipe = OptimizerRecipe(warmup=0.1)
    rates = [learning_rate(recipe, 1.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert max(rates) == 1.0
    assert learning_rate(OptimizerRecipe(schedule="constant", warmup=0), 3.0, 99, 100) == 3.0


def test_only_matrices_have_weight_decay():
    matrix, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    groups = make_optimizer([matrix, bias], OptimizerRecipe(weight_decay=0.1), 1e-3).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 1), (0.0, 1)]
