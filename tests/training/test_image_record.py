"""Images that change during a run stop it by name; with the original images it resumes to the same bits."""

import shutil

import pytest
from PIL import Image
from tiny_runs import QUIET, interrupt_at, make_recipe, same, weights

from olivine.data import huggingface
from olivine.data.image_record import ImageRecord
from olivine.data.sources import Skipped, open_sample_image, read_samples
from olivine.errors import RunError
from olivine.recipe import DataRecipe
from olivine.testing import write_dataset
from olivine.training.features import compute_features
from olivine.training.run import train

STAGE = {"name": "a", "steps": 8, "save_every": 2, "validate_every": 0, "held_out": 0}


class KilledError(Exception):
    pass


@pytest.fixture
def own_data(tmp_path):
    return write_dataset(tmp_path / "data", items=20)


def die():
    raise KilledError


def killed(recipe, monkeypatch, step=7):
    interrupt_at(monkeypatch, step, die)
    with pytest.raises(KilledError):
        train(recipe, QUIET)


def images(dataset):
    return sorted((dataset.parent / "images").iterdir())


def exchange_all(dataset):
    for file in images(dataset):
        Image.new("RGB", (20, 20), "orange").save(file)


def swap_two(dataset):
    """Swap the contents of two images under the same names."""
    first, second = images(dataset)[:2]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def cut_all(dataset):
    for file in images(dataset):
        file.write_bytes(file.read_bytes()[:-20])


def empty_all(dataset):
    for file in images(dataset):
        file.write_bytes(b"")


def one_bit_of_all(dataset):
    for file in images(dataset):
        content = bytearray(file.read_bytes())
        content[-15] ^= 1
        file.write_bytes(content)


CHANGES = [exchange_all, swap_two, cut_all, empty_all, one_bit_of_all]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_images_that_changed_between_a_kill_and_resuming_stop_the_run(
    own_data, tmp_path, monkeypatch, change, on_error
):
    recipe = make_recipe(own_data, tmp_path / "run", stages=[STAGE])
    recipe = recipe.model_copy(update={"data": {"all": recipe.data["all"].model_copy(update={"on_error": on_error})}})
    killed(recipe, monkeypatch)
    change(own_data)
    with pytest.raises(RunError, match=r"data\.all: image '\d+\.png' has changed since this run first opened it"):
        train(recipe, QUIET)


def test_with_restored_images_it_resumes_to_the_same_bits(own_data, tmp_path, monkeypatch):
    whole = weights(train(make_recipe(own_data, tmp_path / "whole", stages=[STAGE]), QUIET))
    recipe = make_recipe(own_data, tmp_path / "run", stages=[STAGE])
    killed(recipe, monkeypatch)
    shutil.copytree(own_data.parent / "images", tmp_path / "kept")
    exchange_all(own_data)
    with pytest.raises(RunError, match="has changed"):
        train(recipe, QUIET)
    shutil.rmtree(own_data.parent / "images")
    shutil.copytree(tmp_path / "kept", own_data.parent / "images")  # with new times: content decides
    assert same(whole, weights(train(recipe, QUIET)))


def test_an_image_that_changes_while_the_run_trains_stops_it(own_data, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.data.batches._KEPT_PIXELS", 0)  # else an image is read once in a run
    interrupt_at(monkeypatch, 4, lambda: exchange_all(own_data))
    with pytest.raises(RunError, match="has changed since this run first opened it"):
        train(make_recipe(own_data, tmp_path / "run", stages=[STAGE]), QUIET)


def test_an_image_that_changes_between_two_stages_stops_the_run(own_data, tmp_path, monkeypatch):
    stages = [{**STAGE, "name": "one", "train": ["connector"]}, {**STAGE, "name": "two"}]
    monkeypatch.setattr("olivine.training.engine.finish_stage", lambda *_, **__: exchange_all(own_data))
    with pytest.raises(RunError, match="has changed since this run first opened it"):
        train(make_recipe(own_data, tmp_path / "run", stages=stages), QUIET)


def test_a_missing_image_stops_the_run_even_where_broken_ones_are_skipped(tmp_path):
    dataset = write_dataset(tmp_path / "data", items=4)
    source = DataRecipe.model_validate(
        {"json": dataset, "images": dataset.parent / "images", "on_error": "skip", "turns": "independent"}
    )
    sample = next(s for s in read_samples(source, Skipped()) if s.image)
    record = ImageRecord(tmp_path / "run").of("all")
    open_sample_image(sample, source, record)
    (dataset.parent / "images" / sample.image).unlink()
    with pytest.raises(RunError, match=r"image '\d+\.png' has changed .*can no longer be read"):
        open_sample_image(sample, source, record)


def test_images_removed_from_the_record_are_accepted_unchanged(own_data, tmp_path, monkeypatch):
    recipe = make_recipe(own_data, tmp_path / "run", stages=[STAGE])
    killed(recipe, monkeypatch)
    exchange_all(own_data)
    for file in (tmp_path / "run").glob("images.*.index"):
        file.unlink()
    assert train(recipe, QUIET).is_dir()


def test_every_process_knows_what_the_others_opened(tmp_path):
    ImageRecord(tmp_path, rank=1).check("all", "a.png", b"one")
    with pytest.raises(RunError, match=r"a\.png"):
        ImageRecord(tmp_path, rank=0).check("all", "a.png", b"two")


def test_sources_do_not_share_names(tmp_path):
    record = ImageRecord(tmp_path)
    record.check("captions", "a.png", b"one")
    record.check("instructions", "a.png", b"two")
    with pytest.raises(RunError, match=r"data\.captions"):
        record.check("captions", "a.png", b"two")


def test_images_changed_while_features_are_computed_stop_it(own_data, tmp_path, monkeypatch):
    recipe = make_recipe(own_data, tmp_path / "run", stages=[STAGE])
    monkeypatch.setattr("olivine.training.features.CHUNK", 4)

    def killed_after_one(done, _total):
        if done >= 4:
            raise KilledError

    with pytest.raises(KilledError):
        compute_features(recipe, recipe.stages[0], tmp_path / "features", killed_after_one)
    source = recipe.data["all"]
    record = ImageRecord(tmp_path / "features").of("all")
    exchange_all(own_data)
    sample = next(s for s in read_samples(source, Skipped()) if s.image)
    with pytest.raises(RunError, match="has changed"):
        open_sample_image(sample, source, record)


def test_images_in_a_dataset_are_compared_too(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    huggingface.opened.cache_clear()

    def write(colour):
        path = tmp_path / "a.png"
        Image.new("RGB", (8, 8), colour).save(path)
        turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}]
        sequence = {"id": "x", "conversations": turns, "image": {"bytes": path.read_bytes(), "path": None}}
        folder = tmp_path / colour
        datasets.Dataset.from_list([sequence]).cast_column("image", datasets.Image()).save_to_disk(str(folder))
        return DataRecipe.model_validate({"path": folder, "format": "huggingface"})

    record = ImageRecord(tmp_path / "run").of("all")
    source = write("red")
    for _ in range(2):
        open_sample_image(read_samples(source, Skipped())[0], source, record)
    source = write("blue")
    with pytest.raises(RunError, match="has changed"):
        open_sample_image(read_samples(source, Skipped())[0], source, record)
