"""Features cached on disk: equal to the tower's, complete after a kill, and trainings that read them learn the same."""

import pytest
import torch
from tiny_runs import QUIET, make_recipe

from olivine.data import features as table_module
from olivine.data.features import CONTENTS, FEATURES, FeatureTable
from olivine.data.llava_json import ItemError
from olivine.data.sources import Skipped, open_sample_image, read_samples
from olivine.errors import DataError, RunError
from olivine.files import read_json, read_json_lines, write_json
from olivine.model.build import build
from olivine.testing import llava_item, save_tower, tiny_model_recipe, write_dataset
from olivine.testing.specimens import connector_specimens, specimen_recipe, tower_specimens
from olivine.training import features as features_module
from olivine.training.features import compute_features
from olivine.training.run import train_stage

SHOWN = 12


def seen(done, total):
    assert 0 < done <= total


@pytest.fixture
def recipe(tmp_path):
    model = tiny_model_recipe()
    vision = model.vision.model_copy(
        update={"from_": str(save_tower(tmp_path / "tower")), "image_size": None, "layer": -2}
    )
    dataset = write_dataset(tmp_path / "data", items=2 * SHOWN)
    return make_recipe(dataset, tmp_path / "run", model=model.model_copy(update={"vision_": vision}))


def kept(recipe, folder, stage=0):
    compute_features(recipe, recipe.stages[stage], folder, seen)
    return FeatureTable(folder)


def test_features_are_the_towers_own(recipe, tmp_path):
    table = kept(recipe, tmp_path / "features")
    samples = [s for s in read_samples(recipe.data["all"], Skipped()) if s.image is not None]
    assert len(table) == len({s.image for s in samples}) > 1
    vlm = build(recipe.model, seed=0, texts=lambda: ["a b c"])
    for sample in samples[:5]:
        pixels = torch.from_numpy(vlm.transform(open_sample_image(sample, recipe.data["all"])))[None]
        with torch.no_grad():
            expected = vlm.patch_features(pixels)[0]
        (kept_one,) = table.rows([table.position(sample.image)])
        assert kept_one.dtype == torch.float32
        torch.testing.assert_close(kept_one, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tower", ["fused, two layers", "dinov2_with_registers"])
def test_features_of_other_towers_are_the_connectors_input(tmp_path, tower):
    """They have the tower's number of tokens and width, whatever the connector does with them."""
    model = specimen_recipe(tower_specimens()[tower], connector_specimens()["resampler"])
    recipe = make_recipe(write_dataset(tmp_path / "data", items=SHOWN), tmp_path / "run", model=model)
    torch.manual_seed(0)  # random towers, initialised as in `build`
    table = kept(recipe, tmp_path / "features")
    vlm = build(recipe.model, seed=0, texts=lambda: ["a b c"])
    sample = next(s for s in read_samples(recipe.data["all"], Skipped()) if s.image is not None)
    pixels = torch.from_numpy(vlm.transform(open_sample_image(sample, recipe.data["all"])))[None]
    with torch.no_grad():
        expected = vlm.patch_features(pixels)[0]
    (kept_one,) = table.rows([table.position(sample.image)])
    torch.testing.assert_close(kept_one, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_reads_them_learns_the_same(recipe, tmp_path, precision):
    recipe = recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"precision": precision})})
    table = kept(recipe, tmp_path / "features")
    (stage, *_) = recipe.stages
    for name, features in (("without", None), ("with", table)):
        train_stage(recipe, stage, None, tmp_path / name, QUIET, features)
    sequences = {
        name: [r for r in read_json_lines(tmp_path / name / "metrics.jsonl") if "loss" in r]
        for name in ("with", "without")
    }
    assert len(sequences["with"]) == stage.steps
    for ours, theirs in zip(sequences["with"], sequences["without"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4 if precision == "fp32" else 2e-2)
        assert ours["labels"] == theirs["labels"]
    for log in ("audit.jsonl",):
        assert (tmp_path / "with" / log).read_bytes() == (tmp_path / "without" / log).read_bytes()


def test_no_image_with_cached_features_is_opened(recipe, tmp_path, monkeypatch):
    table = kept(recipe, tmp_path / "features")
    monkeypatch.setattr("olivine.data.batches.open_sample_image", lambda *_, **__: pytest.fail("opened an image"))
    monkeypatch.setattr("olivine.model.vlm.VisionLanguageModel.patch_features", lambda *_: pytest.fail("ran the tower"))
    train_stage(recipe, recipe.stages[0].model_copy(update={"held_out": 2}), None, tmp_path / "run", QUIET, table)


class KilledError(BaseException):
    pass


def killed_at(monkeypatch, name, call):
    """Die in the `call`-th call of a function that the writer uses, before it does anything."""
    original, calls = getattr(table_module, name), []

    def dies(*given, **named):
        calls.append(given)
        if len(calls) == call:
            raise KilledError
        return original(*given, **named)

    monkeypatch.setattr(table_module, name, dies)


@pytest.mark.parametrize(
    ("name", "call"), [("append_json_line", 1), ("append_json_line", 2), ("flush_to_disk", 1), ("write_json", 1)]
)
def test_killed_anywhere_it_resumes_to_the_same_bytes(recipe, tmp_path, monkeypatch, name, call):
    source = recipe.data["all"]
    for broken in ("1.png", "7.png"):
        (source.images / broken).write_bytes(b"no image")
    lenient = recipe.model_copy(update={"data": {"all": source.model_copy(update={"on_error": "skip"})}})
    monkeypatch.setattr(features_module, "CHUNK", 2)
    kept(lenient, tmp_path / "whole")
    with monkeypatch.context() as patch:
        killed_at(patch, name, call)
        with pytest.raises(KilledError):
            kept(lenient, tmp_path / "cut")
    assert not (tmp_path / "cut" / CONTENTS).exists()
    encoded = []
    original = table_module.append_json_line
    monkeypatch.setattr(table_module, "append_json_line", lambda *given: (encoded.append(given), original(*given)))
    kept(lenient, tmp_path / "cut")
    for file in (FEATURES, CONTENTS):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert len(encoded) == {"append_json_line": 3 - call}.get(name, 0), "nothing that was written is computed again"


def test_a_truncated_chunk_is_written_again(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "CHUNK", 4)
    kept(recipe, tmp_path / "whole")
    calls = []

    def cut(done, total):
        calls.append(done)
        raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            compute_features(recipe, recipe.stages[0], tmp_path / "cut", cut)
        with (tmp_path / "cut" / "features.bin.partial").open("ab") as file:
            file.write(b"half a row")
    assert calls == [4, 8], "each resumes after the last complete chunk"
    kept(recipe, tmp_path / "cut")
    for name in (FEATURES, CONTENTS):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_table_larger_than_memory_is_opened(tmp_path):
    """Mapped files do not count as memory: a sparse file of a terabyte stands for features that fill a disk."""
    image_folder, shape = 2**20, (2**9, 2**10)
    with (tmp_path / FEATURES).open("wb") as file:
        try:
            file.truncate(image_folder * shape[0] * shape[1] * 2)
        except OSError as error:
            pytest.skip(f"no sparse file of a terabyte here: {error}")
    write_json(
        tmp_path / CONTENTS,
        {"names": [str(n) for n in range(image_folder)], "broken": {}, "shape": shape, "dtype": "bfloat16"},
    )
    sequences = FeatureTable(tmp_path).rows([5, image_folder - 1])
    assert sequences.shape == (2, *shape)
    assert sequences.dtype == torch.bfloat16
    assert not sequences.any()


def test_a_broken_image_stops_or_is_skipped_as_its_source_says(recipe, tmp_path):
    source = recipe.data["all"]
    (source.images / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png.*on_error: skip"):
        kept(recipe, tmp_path / "stopped")
    lenient = recipe.model_copy(update={"data": {"all": source.model_copy(update={"on_error": "skip"})}})
    table = kept(lenient, tmp_path / "skipped")
    with pytest.raises(ItemError, match=r"3\.png") as caught:
        table.position("3.png")
    assert caught.value.kind == "unreadable image"
    for name, features in (("without", None), ("with", table)):
        train_stage(lenient, lenient.stages[0], None, tmp_path / name, QUIET, features)
    logs = [(tmp_path / name / "audit.jsonl").read_text() for name in ("without", "with")]
    assert logs[0] == logs[1]
    results = [read_json(tmp_path / name / "result.json")["skipped"] for name in ("without", "with")]
    assert results[0] == results[1] != "none skipped"


def test_an_incomplete_table_is_refused(recipe, tmp_path):
    kept(recipe, tmp_path / "features")
    path = tmp_path / "features" / FEATURES
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="to have it regenerated"):
        FeatureTable(tmp_path / "features")
    kept(recipe, tmp_path / "other")
    with pytest.raises(ItemError, match=r"nowhere\.png"):
        FeatureTable(tmp_path / "other").position("nowhere.png")


def test_text_alone_has_no_features(recipe, tmp_path):
    path = recipe.data["all"].json_
    path.write_text("[" + ",".join(__import__("json").dumps(llava_item(f"t{n}", [("a", "b")])) for n in range(3)) + "]")
    with pytest.raises(RunError, match="no sample has an image"):
        kept(recipe, tmp_path / "features")
