"""Hostile shards, indexes, Parquet files and datasets: one clear line, nothing outside the folder, bounded memory."""

import io
import json
import tarfile

import numpy as np
import pytest

from olivine.data import huggingface, parquet_size, shard_index
from olivine.data.image_lookup import ImageLookup
from olivine.data.item_error import ItemError
from olivine.data.shards import INDEX, ShardSamples
from olivine.data.sources import Skipped, detect_format, open_sample_image, read_samples
from olivine.errors import DataError
from olivine.recipe import DataRecipe
from olivine.testing import write_images


def text(reply="red", **more):
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": reply}]
    return json.dumps({**more, "conversations": turns}).encode()


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def good(count=6):
    return [(f"{number}.json", text(str(number))) for number in range(count)]


def header(size, name="big.json"):
    """A tar header that claims a size, which may be negative."""
    info = tarfile.TarInfo(name)
    info.size = max(size, 0)
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        raw[124:136] = b"\xff" * 11 + bytes([size & 0xFF])
        raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + sum(raw[156:512]) + 8 * 32)
    return bytes(raw)


@pytest.mark.parametrize("size", [1 << 40, 3 << 30, -100])
def test_a_member_of_impossible_size_is_named(tmp_path, size):
    shard = write_shard(tmp_path / "a.tar", good())
    shard.write_bytes(header(size) + shard.read_bytes())
    with pytest.raises(DataError, match=r"a\.tar: (member 'big.json' at byte 0 claims|not a complete)"):
        ShardSamples(tmp_path)


def test_a_compressed_shard_is_named(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("1.json"))
    with pytest.raises(DataError, match="gzip-compressed"):
        ShardSamples(tmp_path)


def test_members_too_large_for_a_sample_break_that_sample_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "_LARGEST_TEXT", 200)
    write_shard(tmp_path / "a.tar", [("1.json", text("x" * 500)), ("2.json", text())])
    samples = ShardSamples(tmp_path)
    with pytest.raises(ItemError, match="sample 0: a member is too large"):
        samples[0]
    assert samples[1].conversation[1].text == "red"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe{", b'{"id": ' + b"9" * 5000 + b"}", b"[1]"])
def test_a_hostile_json_member_breaks_its_sample_alone(tmp_path, content):
    write_shard(tmp_path / "a.tar", [("1.json", content), ("2.json", text())])
    samples = ShardSamples(tmp_path)
    with pytest.raises(ItemError, match=r"a\.tar, sample 0"):
        samples[0]
    assert samples[1].conversation[1].text == "red"


def test_several_images_of_a_sample_are_refused_and_other_members_counted(tmp_path):
    (name,) = write_images(tmp_path, 1)
    png = (tmp_path / name).read_bytes()
    mark = json.dumps(
        {"conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a"}]}
    ).encode()
    write_shard(tmp_path / "a.tar", [("1.png", png), ("1.jpg", png), ("1.json", mark), ("1.cls", b"7"), ("2.png", png)])
    samples = ShardSamples(tmp_path)
    with pytest.raises(ItemError, match="sample 0: has several image members"):
        samples[0]
    assert samples.unread == {".cls member": 1, ".png (without text) member": 1}
    assert ShardSamples(tmp_path).unread == samples.unread  # from the stored index, too


def test_images_of_every_supported_format_are_found_in_shards(tmp_path):
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(content, "GIF")
    write_shard(tmp_path / "a.tar", [("1.gif", content.getvalue()), ("1.txt", b"a thing")])
    source = DataRecipe.model_validate({"format": "webdataset", "path": tmp_path})
    (sample,) = read_samples(source, Skipped())
    assert open_sample_image(sample, source).getpixel((0, 0)) == (255, 0, 0)


def damaged(index, change):
    columns = dict(np.load(index))
    change(columns)
    np.savez(index, **columns)


INDEX_DAMAGE = {
    "short column": lambda c: c.update(text_size=c["text_size"][:2]),
    "negative sizes": lambda c: c.update(text_size=np.full(6, -7, "i4")),
    "a shard that is not there": lambda c: c.update(shard=np.full(6, 7, "i4")),
    "offsets beyond the end": lambda c: c.update(text_at=np.full(6, 1 << 40, "i8")),
    "missing column": lambda c: c.pop("caption"),
    "another column": lambda c: c.update(more=c["caption"]),
    "another type": lambda c: c.update(text_at=c["text_at"].astype("f8")),
    "two dimensions": lambda c: c.update(text_at=c["text_at"].reshape(2, 3)),
    "unread is no count": lambda c: c.update(unread=np.array('["x"]')),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
def test_an_index_that_does_not_match_is_rebuilt(tmp_path, damage):
    write_shard(tmp_path / "a.tar", good())
    assert len(ShardSamples(tmp_path)) == 6
    damaged(tmp_path / INDEX, INDEX_DAMAGE[damage])
    assert [sample.conversation[1].text for sample in ShardSamples(tmp_path)] == list("012345")


class Harm:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("content", [b"garbage" * 50, b"PK\x03\x04xxxx", b"", None, "huge"])
def test_a_file_that_is_no_index_is_rebuilt(tmp_path, content):
    write_shard(tmp_path / "a.tar", good())
    index = tmp_path / INDEX
    if content is None:
        harm = np.array([Harm()], dtype=object)
        np.savez(index, stamp=harm, shard=harm)
    elif content == "huge":
        np.savez_compressed(index, stamp=np.zeros(4_000_000))
        assert index.stat().st_size < 100_000
    else:
        index.write_bytes(content)
    assert len(ShardSamples(tmp_path)) == 6


def test_an_index_with_wrong_offsets_is_detected(tmp_path):
    write_shard(tmp_path / "a.tar", good())
    ShardSamples(tmp_path)
    damaged(tmp_path / INDEX, lambda c: c.update(text_at=c["text_at"] + 1))
    with pytest.raises(DataError, match=r"a\.tar: no member of .* begins at byte .*Remove \.olivine-index"):
        ShardSamples(tmp_path)[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/" * 2500 + "a.png", "names no file|no file system accepts that|the path cannot be looked up"),
        ("a" * 400 + ".png", "the path cannot be looked up|not found"),
        ("a\0.png", "NUL"),
        ("../a.png", "leaves the root"),
        ("/etc/passwd", "leaves the root"),
        ("C:\\a.png", "leaves the root"),
        ("gone.png", "not found"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_hostile_image_path_is_named(tmp_path, name, message, listed):
    lookup = ImageLookup(tmp_path)
    names = write_images(tmp_path, 3)
    for _ in range(70 if listed else 1):
        lookup.is_listed(names[0])
    with pytest.raises(DataError, match=message) as error:
        lookup.find(name)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(("on_disk", "named"), [("a.JPG", "a.jpg"), ("a.png", "a.jpg"), ("a.PNG", "a.jpeg")])
def test_an_image_of_another_suffix_is_found(tmp_path, on_disk, named, listed):
    (tmp_path / on_disk).write_bytes(b"x")
    lookup = ImageLookup(tmp_path)
    for _ in range(70 if listed else 1):
        lookup.is_listed("b.png")
    assert lookup.find(named).name == on_disk


def test_an_image_added_after_the_listing_is_found(tmp_path):
    lookup = ImageLookup(tmp_path)
    for _ in range(70):
        assert not lookup.is_listed("new.png")
    (tmp_path / "new.png").write_bytes(b"x")
    assert lookup.find("new.png") == tmp_path / "new.png"


datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
import pyarrow as arrow  # noqa: E402  # behind the skip
import pyarrow.parquet as parquet  # noqa: E402

TURNS = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "red"}]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    huggingface.opened.cache_clear()


def opened(folder):
    return huggingface.opened(folder)


def saved(folder, rows):
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("name", ["../other/data.arrow", "/etc/passwd", "sub/data.arrow", "..", ""])
def test_a_description_that_names_files_elsewhere_is_refused(tmp_path, name):
    saved(tmp_path / "other", [{"conversations": TURNS}])
    folder = saved(tmp_path / "set", [{"conversations": TURNS}])
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="expected a file in the same folder"):
        opened(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"_data_files": 3}', "[" * 100_000])
def test_a_damaged_description_is_named(tmp_path, content):
    folder = saved(tmp_path / "set", [{"conversations": TURNS}])
    (folder / "state.json").write_text(content)
    with pytest.raises(DataError, match="not what save_to_disk writes"):
        opened(folder)


@pytest.mark.parametrize("damage", ["cut", "gone", "noise"])
def test_a_damaged_arrow_file_is_named(tmp_path, damage):
    folder = saved(tmp_path / "set", [{"conversations": TURNS}] * 9)
    (file,) = folder.glob("*.arrow")
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(content[:100] if damage == "cut" else b"\x07" * len(content))
    with pytest.raises(DataError, match="set: "):
        opened(folder)


def write_parquet(folder, columns, **options):
    folder.mkdir()
    parquet.write_table(arrow.table(columns), folder / "a.parquet", **options)
    return folder


@pytest.mark.parametrize("part", [0, 9, 0.5])
def test_a_cut_parquet_file_is_named(tmp_path, part):
    folder = write_parquet(tmp_path / "set", {"conversations": [TURNS] * 9})
    content = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(content[: part if isinstance(part, int) else len(content) // 2])
    with pytest.raises(DataError, match=r"a\.parquet: not a whole Parquet file"):
        opened(folder)


@pytest.fixture
def small_bounds(monkeypatch):
    monkeypatch.setattr(parquet_size, "_FREE", 2**20)


def test_highly_compressed_zeros_are_not_decompressed(tmp_path, small_bounds):
    pixels = [b"\0" * (3 << 20), b"x"]
    folder = write_parquet(
        tmp_path / "set", {"conversations": [TURNS] * 2, "image": pixels}, compression="zstd", use_dictionary=False
    )
    with pytest.raises(DataError, match=r"bytes that become 3,\d+,\d+ or more"):
        opened(folder)


def test_a_value_referenced_many_times_is_not_expanded_in_memory(tmp_path, small_bounds):
    once = arrow.DictionaryArray.from_arrays(arrow.array([0] * 4000), arrow.array([b"\0" * 90_000]))
    folder = write_parquet(tmp_path / "set", {"conversations": [TURNS] * 4000, "image": once}, store_schema=False)
    with pytest.raises(DataError, match="bytes that become"):
        opened(folder)
    stated = parquet.read_metadata(folder / "a.parquet").row_group(0).total_byte_size
    assert stated < 2**20, "the sizes in the metadata are within the bounds: the values had to be counted"


def test_ordinary_repetition_is_accepted(tmp_path):
    folder = write_parquet(tmp_path / "set", {"conversations": [TURNS] * 4000, "source": ["a long name " * 20] * 4000})
    samples = opened(folder)
    assert len(samples) == 4000
    assert samples.unread == {"column source": 4000}


def png(folder):
    (name,) = write_images(folder, 1)
    return (folder / name).read_bytes()


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_images_without_the_librarys_metadata_are_understood(tmp_path, kind):
    content = png(tmp_path)
    cell = content if kind == "bytes" else {"bytes": content, "path": None}
    folder = write_parquet(tmp_path / "set", {"conversations": [TURNS], "image": [cell]})
    source = DataRecipe.model_validate({"format": "huggingface", "path": folder})
    (sample,) = read_samples(source, Skipped())
    assert open_sample_image(sample, source).size == (16, 16)


def test_image_paths_as_text_are_named(tmp_path):
    folder = saved(tmp_path / "set", [{"conversations": TURNS, "image": "a.png"}])
    with pytest.raises(ItemError, match=r"row 0: column 'image' holds a path as text.*cast_column"):
        opened(folder)[0]


def test_an_image_that_is_only_a_path_is_never_opened(tmp_path):
    png(tmp_path)
    cell = {"bytes": None, "path": str(tmp_path / "0.png")}
    source = DataRecipe.model_validate(
        {"format": "huggingface", "path": write_parquet(tmp_path / "set", {"conversations": [TURNS], "image": [cell]})}
    )
    (sample,) = read_samples(source, Skipped())
    with pytest.raises(ItemError, match="names an image but does not contain it"):
        open_sample_image(sample, source)


def test_turns_stored_as_a_dict_of_lists_are_understood(tmp_path):
    legacy = {"from": ["human", "gpt"], "value": ["what?", "red"]}
    folder = write_parquet(tmp_path / "set", {"conversations": [legacy]})
    assert [turn.text for turn in opened(folder)[0].conversation] == ["what?", "red"]


def test_trl_rows_are_understood(tmp_path):
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]
    reply = [{"type": "text", "text": "red"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": reply}]
    cells = [{"bytes": png(tmp_path), "path": None}]
    folder = write_parquet(tmp_path / "set", {"messages": [messages], "images": [cells]})
    (sample,) = opened(folder)
    assert [turn.text for turn in sample.conversation] == ["what?", "red"]
    assert sample.image == "0"


def test_columns_of_video_are_refused(tmp_path):
    with pytest.raises(DataError, match="column video is not read"):
        opened(saved(tmp_path / "set", [{"conversations": TURNS, "video": "a.mp4"}]))


def test_texts_that_are_numbers_are_named(tmp_path):
    folder = saved(tmp_path / "set", [{"texts": [{"user": 3, "assistant": 4}]}])
    with pytest.raises(ItemError, match="row 0, turn 1: expected texts"):
        opened(folder)[0]


def test_a_dataset_in_a_subfolder_is_suggested(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_list([{"conversations": TURNS}])}).save_to_disk(
        str(tmp_path / "dict")
    )
    with pytest.raises(DataError, match=r"several splits .*path: .*dict/train"):
        opened(tmp_path / "dict")
    (tmp_path / "hub").mkdir()
    write_parquet(tmp_path / "hub" / "data", {"conversations": [TURNS]})
    with pytest.raises(DataError, match=r"Parquet files below it.*hub/data"):
        opened(tmp_path / "hub")
    assert detect_format(tmp_path / "dict") == detect_format(tmp_path / "hub") == "huggingface"
