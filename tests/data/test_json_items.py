"""Items read piece by piece: formats recognised by content, offsets kept, hostile files refused in one line."""

import gzip
import json

import pytest

from olivine.data import json_items
from olivine.data.item_error import ItemError
from olivine.data.json_items import scan
from olivine.data.llava_samples import read_through
from olivine.errors import DataError
from olivine.files import read_json, read_json_lines
from olivine.testing import llava_item, write_dataset

ITEMS = [llava_item(f"{number}ä🙂", [("how? " * 9, 'so "ä" \\ 🙂\n.')]) for number in range(40)]


def write(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LAYOUTS = {
    "list": json.dumps(ITEMS),
    "list in UTF-8": json.dumps(ITEMS, ensure_ascii=False),
    "indented": json.dumps(ITEMS, indent=1, ensure_ascii=False),
    "byte order mark": "\ufeff" + json.dumps(ITEMS, ensure_ascii=False),
    "lines": "\n".join(json.dumps(item, ensure_ascii=False) for item in ITEMS),
    "lines with blanks and CR": "\r\n\r\n".join(json.dumps(item) for item in ITEMS) + "\r\n",
    "lines with a mark": "\ufeff" + "\n".join(json.dumps(item, ensure_ascii=False) for item in ITEMS),
}


@pytest.mark.parametrize("piece", [7, 64, 4 * 2**20])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_items_and_their_offsets(tmp_path, monkeypatch, layout, piece):
    monkeypatch.setattr(json_items, "_PIECE", piece)
    path = write(tmp_path, LAYOUTS[layout])
    content = path.read_bytes()
    found = list(scan(path))
    assert [item.value for item in found] == ITEMS
    assert [json.loads(content[item.start : item.start + item.size]) for item in found] == ITEMS
    assert [item.index for item in found] == list(range(len(ITEMS)))


def test_numbers_and_words_may_span_two_pieces(tmp_path, monkeypatch):
    values = [123456789, -1.5e300, True, None, "ab", [], {}]
    path = write(tmp_path, json.dumps(values))
    for piece in range(1, 12):
        monkeypatch.setattr(json_items, "_PIECE", piece)
        assert [item.value for item in scan(path)] == values


GOOD = json.dumps(ITEMS[:3])
WHOLE_FILES = {
    "gzip": (gzip.compress(GOOD.encode()), "gzip-compressed. Unpack it first"),
    "zip": (b"PK\x03\x04" + bytes(60), "a zip archive"),
    "UTF-16": (GOOD.encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "UTF-16"),
    "parquet": (b"PAR1" + bytes(60), "a Parquet file"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
    "web page": (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
    "pickle": (b"\x80\x04\x95" + bytes(60), "pickle, which is never loaded"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(60), "an image file"),
    "latin-1": ('[{"id": "ä"}]'.encode("latin-1"), "not UTF-8 text (in item 0"),
    "empty": (b"", "the file is empty"),
    "text": (b"hello", "it begins with 'hello'"),
    "other object": (b'{"data": []}', "a JSON object with 'data'; expected a JSON list"),
    "indented object": (b'{\n "a": 1,\n "b": 2\n}', "over several lines; expected a JSON list"),
    "indented objects": (b'{\n "a": 1\n}\n{\n "a": 2\n}', "over several lines followed by more"),
    "cut": (GOOD[:-30], "is it truncated?"),
    "cut in a text": (GOOD[: GOOD.index("so")], "is it truncated?"),
    "no comma": (GOOD.replace("}, {", "} {", 1) if "}, {" in GOOD else "[1 2]", "Expecting"),
    "comma at the end": ("[1, 2, ]", "Expecting value"),
    "two lists": (GOOD + "\n[]", "Extra data"),
    "deep": ("[" * 200_000 + "]" * 200_000, "item 0 is nested too deeply"),
    "long number": ("[" + "9" * 200_000 + "]", "item 0 cannot be read"),
}


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path, kind):
    content, message = WHOLE_FILES[kind]
    path = write(tmp_path, content)
    with pytest.raises(DataError) as error:
        list(scan(path))
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert len(str(error.value)) < 500
    assert ("truncated" in str(error.value)) == kind.startswith("cut")


def test_an_error_in_the_middle_names_line_and_item(tmp_path):
    path = write(tmp_path, '[{"id": 1},\n {"id": 2},\n {"id": x}]' + " " * 100)
    with pytest.raises(DataError, match=r"line 3, column 9 \(Expecting value\), in item 2"):
        list(scan(path))


def test_an_endless_item_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_items, "MAX_ITEM", 2000)
    monkeypatch.setattr(json_items, "_PIECE", 100)
    with pytest.raises(DataError, match="item 1, from byte 4, does not end within 2,000 bytes"):
        list(scan(write(tmp_path, '[1, "' + "x" * 9000)))


@pytest.mark.parametrize("line", ['{"id": 1', "[" * 100_000, '{"id": ' + "9" * 5000 + "}", '"\\ud83d'])
def test_a_broken_line_is_one_broken_item(tmp_path, line):
    path = write(tmp_path, "\n".join([json.dumps(ITEMS[0]), line, json.dumps(ITEMS[1])]))
    values = [item.value for item in scan(path)]
    assert values[::2] == ITEMS[:2]
    assert isinstance(values[1], ItemError)
    assert "item 1 (byte" in str(values[1])


def test_a_file_that_changes_while_it_is_used_is_refused(tmp_path):
    path = write_dataset(tmp_path, items=12)
    samples, count = read_through(path, tmp_path / "images", lambda error, _: pytest.fail(str(error)))
    assert count == 12
    assert samples[3].id == "s3"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match="changed while it was in use"):
        samples[4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "cannot be read"),
        ('{"a": 1}\n{"a": 2}', "JSON lines"),
        ('{"a": ', "truncated"),
        ('{"a": x, "b": 1}', "Repair it there"),
        (gzip.compress(b"{}"), "gzip-compressed"),
        ("{}".encode("utf-16"), "UTF-16"),
    ],
)
def test_other_unreadable_json_files_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_json(write(tmp_path, content))


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_hostile_line_of_a_log_is_named(tmp_path, line):
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        read_json_lines(write(tmp_path, '{"a": 1}\n' + line + "\n{}"))
