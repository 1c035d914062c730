"""Checking a data set: counts, kept results, exit codes."""

import json

import pytest

from olivine.data import check_jobs, check_work
from olivine.data.check import FullCheck, check, journal_beside
from olivine.data.check_jobs import LengthLimit
from olivine.data.encoding import TemplateEncoder
from olivine.data.images import ImageTransform
from olivine.data.sources import Skipped, read_samples
from olivine.data.template import TEMPLATES
from olivine.errors import RequestError, RunError
from olivine.model.build import image_token
from olivine.recipe import DataRecipe
from olivine.testing import gemma_tokenizer, llava_item, write_dataset, write_images

TRANSFORM = ImageTransform(16, "pad", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def limit():
    tokenizer = gemma_tokenizer()
    encoder = TemplateEncoder(TEMPLATES["gemma"], tokenizer, image_token_id=image_token(tokenizer), image_tokens=4)
    return LengthLimit(encoder, 2048)


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path, items=80)


def full(path, limit=None, **more):
    return check(path, path.parent / "images", limit, full=FullCheck(TRANSFORM), jobs=1, **more)


def opened(monkeypatch):
    """The names of images in the order in which they are decoded."""
    names = []
    whole = check_jobs._read_whole
    monkeypatch.setattr(
        check_jobs, "_read_whole", lambda source, name, *rest: (names.append(name), whole(source, name, *rest))[1]
    )
    return names


def test_each_image_is_opened_once_however_many_items_use_it(data, monkeypatch):
    names = opened(monkeypatch)
    report = full(data)
    assert len(names) == len(set(names)) == report.images < report.items - report.text_only


def test_a_full_check_that_was_killed_repeats_nothing(data, limit, monkeypatch):
    monkeypatch.setattr("olivine.data.check._IMAGES", 4)
    whole = full(data, limit).summary()
    journal = journal_beside(data)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:5]) + lines[5][:20])  # a kill cut the sixth line short
    names = opened(monkeypatch)
    resumed = full(data, limit)
    assert resumed.kept == 16
    assert len(names) == whole["images"] - 16
    again = full(data, limit)
    assert len(names) == whole["images"] - 16, "nothing was opened the third time"
    for report in (resumed, again):
        assert {**report.summary(), "images_kept": 0, "seconds": 0} == {**whole, "seconds": 0}
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys))


def test_a_changed_image_is_checked_again(data, monkeypatch):
    monkeypatch.setattr("olivine.data.check._IMAGES", 4)
    assert full(data).trainable == 80
    (data.parent / "images" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    names = opened(monkeypatch)
    report = full(data)
    assert "0.png" in names
    assert len(names) == 4
    occurrences = sum(item.get("image") == "0.png" for item in json.loads(data.read_text()))
    assert report.broken == {"unreadable image": occurrences}


def test_other_options_or_data_start_again(data, limit, monkeypatch):
    full(data)
    names = opened(monkeypatch)
    full(data, limit)
    assert len(names) == 32
    data.write_text(data.read_text() + "\n")
    full(data, limit)
    assert len(names) == 64


@pytest.mark.parametrize("content", ["", "noise", "[1]\n", '{"request": {}}\n{"key": 3}\n'])
def test_a_damaged_journal_is_restarted(data, content):
    journal_beside(data).write_text(content)
    assert full(data).kept == 0
    assert full(data).kept == 32


def test_a_journal_that_cannot_be_written_says_what_to_give(data):
    with pytest.raises(RequestError, match="Give --journal FILE"):
        check(data, data.parent / "images", full=FullCheck(TRANSFORM, data.parent / "gone" / "journal"))


def test_several_processes_find_what_one_does(data, limit, monkeypatch):
    monkeypatch.setattr("olivine.data.check._IMAGES", 4)
    (data.parent / "images" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    alone = full(data, limit).summary()
    journal_beside(data).unlink()
    both = check(data, data.parent / "images", limit, full=FullCheck(TRANSFORM), jobs=2).summary()
    assert both["broken"] == alone["broken"] != {}
    assert {**both, "seconds": 0, "named": {}} == {**alone, "seconds": 0, "named": {}}


def test_a_killed_process_is_reported(data, monkeypatch):
    class Killed:
        def submit(self, *_):
            raise check_work.BrokenProcessPool

        def shutdown(self, **_):
            pass

    monkeypatch.setattr("olivine.data.check._IMAGES", 4)
    monkeypatch.setattr(check_work, "ProcessPoolExecutor", lambda *_, **__: Killed())
    with pytest.raises(RunError, match="--jobs 1: finished work is kept"):
        check(data, data.parent / "images", full=FullCheck(TRANSFORM), jobs=2)


def test_an_item_counts_as_broken_once_however_many_defects_it_has(tmp_path, limit):
    names = write_images(tmp_path / "images", 2)
    (tmp_path / "images" / names[0]).write_bytes(b"\x89PNG\r\n\x1a\n cut")
    rows = [
        llava_item("a", [("b", "c " * 3000)], names[0]),
        llava_item("d", [("e", "f")], names[0]),
        llava_item("g", [("h", "i")], names[1]),
        llava_item("g", [("h", "i")]),
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    report = full(path, limit)
    assert report.broken == {"unreadable image": 2}
    assert (report.items, report.trainable, report.text_only, report.turns) == (4, 2, 1, 4)
    assert report.notes == {"id used more than once": 1}
    assert [line.split(":")[0] for line in report.named["unreadable image"]] == ["item 0 (id 'a')", "item 1 (id 'd')"]


def test_headers_alone_reveal_files_that_are_no_images_or_too_large(tmp_path):
    (tmp_path / "images").mkdir()
    contents = {"text.png": b"hello", "huge.png": None, "cut.png": b"\x89PNG\r\n\x1a\n", "none.png": b""}
    names = write_images(tmp_path / "images", 1)
    whole = (tmp_path / "images" / names[0]).read_bytes()
    for name, content in contents.items():
        huge = whole[:16] + (90_000).to_bytes(4, "big") * 2 + whole[24:]
        (tmp_path / "images" / name).write_bytes(huge if content is None else content)
    rows = [llava_item(name, [("a", "b")], name) for name in [*contents, *names]]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    report = check(path, tmp_path / "images", None)
    assert report.broken == {"unreadable image": 4}
    assert report.lines()[-1].endswith("1 of 5 items can be trained on")


def test_training_reads_exactly_what_the_check_accepts(data):
    rows = json.loads(data.read_text())
    rows[3]["conversations"] = []
    rows[4]["images"] = ["0.png"]
    rows[5]["model"] = "x"
    rows[6]["image"] = "gone.png"
    data.write_text(json.dumps(rows))
    report = check(data, data.parent / "images", None)
    skipped = Skipped()
    source = DataRecipe.model_validate({"json": data, "images": data.parent / "images", "on_error": "skip"})
    assert len(read_samples(source, skipped)) == report.trainable
    assert skipped.kinds == report.broken
    assert skipped.unread == report.unread == {"model": 1}


@pytest.mark.parametrize(
    ("content", "rc", "said"),
    [
        ("[]", 1, "0 of 0 items"),
        ('[{"id": 1}]', 1, "0 of 1 items"),
        ("hello", 2, "not valid JSON"),
        ('{"id": 1, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}', 0, "1 of 1"),
    ],
)
def test_the_command_exits_with_1_where_nothing_can_be_trained_on(run, tmp_path, content, rc, said):
    path = tmp_path / "a.json"
    path.write_text(content)
    code, out, err = run("data", "check", path)
    assert code == rc
    assert said in out + err


def test_the_command_checks_in_full(run, data):
    code, out, _ = run("data", "check", data, "--images", data.parent / "images", "--full", "--jobs", 1, "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["images_read"] == "full"
    assert summary["longest"] > 0
    code, out, _ = run("data", "check", data, "--images", data.parent / "images", "--full", "--jobs", 1, "--json")
    assert json.loads(out)["images_kept"] == summary["images"]


def test_a_wrong_option_is_named(run, data):
    code, _, err = run("data", "check", data, "--full", "--image-fit", "stretch")
    assert code == 2
    assert "--image-fit 'stretch': expected pad, crop, squash or letterbox" in err


@pytest.mark.parametrize("layout", ["shards", "folder"])
def test_folders_are_recognised_or_named(run, tmp_path, layout):
    if layout == "shards":
        import io
        import tarfile

        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name, content in (("1.json", data_of_one()), ("2.json", b"{no")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        (tmp_path / "train.json").write_text("[]")
    code, out, err = run("data", "check", tmp_path)
    if layout == "shards":
        assert code == 0
        assert "1 of 2 items can be trained on" in out
        assert "not read: 'model' of 1 items" in out
    else:
        assert code == 2
        assert "train.json" in err


def data_of_one():
    return json.dumps({"model": "x", **llava_item("a", [("b", "c")])}).encode()
