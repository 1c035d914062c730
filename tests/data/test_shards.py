"""WebDataset shards: found by an index that is built once, read as LLaVA's items are, trained on with flat memory."""

import io
import json
import tarfile
import tracemalloc

import pytest
from PIL import Image

from olivine.cost.estimate import measured_lengths
from olivine.data.lazy_samples import SelectedSamples
from olivine.data.llava_json import ItemError
from olivine.data.shards import INDEX, ShardSamples, sample_image_bytes
from olivine.data.sources import Skipped, open_sample_image, read_samples, usable
from olivine.errors import DataError
from olivine.recipe import DataRecipe
from olivine.records import Role


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(content, "PNG")
    return content.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def item(reply, image=True, **more):
    question = "<image>\nwhat is it?" if image else "what is it?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    return json.dumps({**more, "conversations": turns}).encode()


@pytest.fixture
def shards(tmp_path):
    write_shard(
        tmp_path / "a.tar",
        [
            ("x/1.png", png("red")),
            ("x/1.json", item("red", id="first")),
            ("x/2.json", item("nothing", image=False)),
            ("x/2.cls", b"7"),
            ("y/2.json", item("blue")),
            ("y/2.png", png("blue")),
        ],
    )
    write_shard(tmp_path / "b.tar", [("1.txt", b"a green square\n"), ("1.png", png("lime")), ("only.png", png("red"))])
    return tmp_path


def test_samples_in_order_with_their_own_images(shards):
    samples = ShardSamples(shards)
    assert len(samples) == 4
    assert [s.id for s in samples] == ["first#0", "a/1", "a/2", "b/3"]
    assert [s.conversation[1].text for s in samples] == ["red", "nothing", "blue", "a green square"]
    assert samples[3].conversation[0].role is Role.USER
    assert samples[1].image is None
    source = DataRecipe.model_validate({"format": "webdataset", "path": shards})
    colours = [open_sample_image(samples[i], source).getpixel((0, 0)) for i in (0, 2, 3)]
    assert colours == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
    assert list(samples[1:3]) == [samples[1], samples[2]]
    assert list(SelectedSamples(samples, [3, 0])) == [samples[3], samples[0]]
    assert list(samples[1:4][::-1]) == [samples[3], samples[2], samples[1]]
    assert samples[-1] == samples[len(samples) - 1]
    with pytest.raises(IndexError):
        samples[len(samples)]
    assert isinstance(read_samples(source, Skipped()), ShardSamples)


def test_the_index_is_built_once_and_rebuilt_when_a_shard_changes(shards, monkeypatch):
    before, marked = list(ShardSamples(shards)), ShardSamples(shards).fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr("olivine.data.shard_index._build", lambda shards: pytest.fail("built again"))
        assert list(ShardSamples(shards)) == before
        assert ShardSamples(shards).fingerprint() == marked
    write_shard(shards / "b.tar", [("1.txt", b"another and longer caption"), ("1.png", png("lime"))])
    assert ShardSamples(shards)[3].conversation[1].text == "another and longer caption"
    assert ShardSamples(shards).fingerprint() != marked
    (shards / INDEX).write_bytes(b"damaged")
    assert len(ShardSamples(shards)) == 4


def test_what_is_broken_is_named(shards, tmp_path):
    write_shard(shards / "c.tar", [("1.json", b"{no json"), ("2.json", item("", image=False))])
    samples = ShardSamples(shards)
    with pytest.raises(ItemError, match=r"c\.tar, sample 4: its \.json member cannot be read"):
        samples[4]
    with pytest.raises(ItemError, match="reply in turn 2 is empty"):
        samples[5]
    content = (shards / "a.tar").read_bytes()
    (shards / "d.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(DataError, match=r"d\.tar: not a complete"):
        ShardSamples(shards)
    (shards / "d.tar").unlink()
    whole = ShardSamples(shards)
    image = whole[2].image
    (shards / "a.tar").write_bytes(content[:600])
    with pytest.raises(DataError, match=r"a\.tar: ends within a member"):
        sample_image_bytes(shards, image)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"no \.tar shard"):
        ShardSamples(empty)


def test_memory_is_the_index_and_nothing_else(tmp_path):
    """29 bytes a sample: ten million take 290 MB, whatever they hold."""
    count = 20_000
    write_shard(tmp_path / "a.tar", ((f"{n}.json", item("yes", image=False)) for n in range(count)))
    ShardSamples(tmp_path)
    tracemalloc.start()
    samples = ShardSamples(tmp_path)
    for position in range(0, count, 7):
        samples[position]
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 29 * count + 200_000
    assert peak < 2 * 29 * count + 300_000


def test_a_broken_sample_is_skipped_wherever_a_source_is_read(tmp_path):
    write_shard(
        tmp_path / "a.tar", [("1.json", item("one", image=False)), ("2.json", b"{no"), ("3.json", item("two", False))]
    )
    stop = DataRecipe.model_validate({"format": "webdataset", "path": tmp_path})
    with pytest.raises(DataError, match=r"a\.tar, sample 1.*on_error: skip"):
        list(usable(ShardSamples(tmp_path), stop))
    skip = stop.model_copy(update={"on_error": "skip"})
    assert [sample.conversation[1].text for sample in usable(ShardSamples(tmp_path), skip)] == ["one", "two"]
    lengths = measured_lengths(stop, 9)
    assert (lengths.samples, lengths.images) == (3, 0.0)
