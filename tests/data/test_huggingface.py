"""Hugging Face datasets on disk: the same from Arrow and from Parquet, images from the rows, rows read late."""

import io

import pytest
from PIL import Image

from olivine.data import huggingface
from olivine.data.llava_json import ItemError
from olivine.data.sources import Skipped, fingerprint, open_sample_image, read_samples
from olivine.errors import DataError
from olivine.recipe import DataRecipe

datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    huggingface.opened.cache_clear()


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(content, "PNG")
    return content.getvalue()


def row(name, reply, colour=None):
    question = "<image>\nwhat is it?" if colour else "what is it?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    image = {"bytes": png(colour), "path": None} if colour else None
    return {"id": name, "conversations": turns, "image": image}


def table(rows, column="image", kind=None):
    return datasets.Dataset.from_list(rows).cast_column(column, kind or datasets.Image())


@pytest.fixture
def rows():
    return [row("first", "red", "red"), row("second", "nothing"), row("third", "lime", "lime")]


def saved(folder, made, layout):
    if layout == "arrow":
        made.save_to_disk(str(folder))
    else:
        folder.mkdir()
        made.to_parquet(str(folder / "part-0.parquet"))
    return DataRecipe.model_validate({"path": folder, "format": "huggingface"})


@pytest.mark.parametrize("layout", ["arrow", "parquet"])
def test_samples_and_their_images(rows, tmp_path, layout):
    source = saved(tmp_path / "set", table(rows), layout)
    samples = read_samples(source, Skipped())
    assert [sample.id for sample in samples] == ["first#0", "second#1", "third#2"]
    assert [sample.conversation[1].text for sample in samples] == ["red", "nothing", "lime"]
    assert samples[1].image is None
    assert open_sample_image(samples[0], source).getpixel((1, 1)) == (255, 0, 0)
    assert open_sample_image(samples[2], source).getpixel((1, 1)) == (0, 255, 0)
    assert [sample.id for sample in samples[1:]] == ["second#1", "third#2"]
    assert len(fingerprint(source)) == 64


def test_the_cauldrons_columns(tmp_path):
    texts = [{"user": "what is it?", "assistant": "a lamp"}, {"user": "sure?", "assistant": "yes"}]
    image = {"bytes": png("blue"), "path": None}
    made = table([{"texts": texts, "images": [image]}], "images", datasets.List(datasets.Image()))
    source = saved(tmp_path / "set", made, "arrow")
    (sample,) = read_samples(source, Skipped())
    assert [turn.text for turn in sample.conversation][1:] == ["a lamp", "sure?", "yes"]
    assert open_sample_image(sample, source).getpixel((0, 0)) == (0, 0, 255)


def test_broken_rows_are_named_when_they_are_asked_for(tmp_path):
    two = [{"bytes": png("red"), "path": None}] * 2
    one_mark = [{"role": "user", "content": "<image> a"}, {"role": "assistant", "content": "b"}]
    made = table(
        [{"messages": one_mark, "images": two}, {"messages": [], "images": []}],
        "images",
        datasets.List(datasets.Image()),
    )
    samples = read_samples(saved(tmp_path / "set", made, "arrow"), Skipped())
    with pytest.raises(ItemError, match="1 <image> marks for 2 images"):
        samples[0]
    with pytest.raises(ItemError, match="row 1: no turn in conversations"):
        samples[1]
    with pytest.raises(IndexError):
        samples[2]


def test_several_images_of_a_row_are_read_in_order(tmp_path):
    two = [{"bytes": png(colour), "path": None} for colour in ("red", "blue")]
    made = table(
        [{"texts": [{"user": "same?", "assistant": "no"}], "images": two}], "images", datasets.List(datasets.Image())
    )
    source = saved(tmp_path / "set", made, "arrow")
    sample = read_samples(source, Skipped())[0]
    assert sample.conversation[0].text == "\n\nsame?"
    assert sample.conversation[0].images == (0, 1)
    opened = [open_sample_image(sample, source, image=name).getpixel((0, 0)) for name in sample.all_images]
    assert opened == [(255, 0, 0), (0, 0, 255)]


def test_a_changed_dataset_has_another_fingerprint(rows, tmp_path):
    first = fingerprint(saved(tmp_path / "a", table(rows), "arrow"))
    assert first == fingerprint(saved(tmp_path / "b", table(rows), "arrow"))
    assert first != fingerprint(saved(tmp_path / "c", table(rows[:2]), "arrow"))


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no Hugging Face dataset"):
        read_samples(DataRecipe.model_validate({"path": tmp_path, "format": "huggingface"}), Skipped())
    other = datasets.Dataset.from_list([{"question": "a"}])
    with pytest.raises(DataError, match=r"no column of conversations.*found question"):
        read_samples(saved(tmp_path / "set", other, "arrow"), Skipped())
