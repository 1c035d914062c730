"""Cached hashes: correct after kills, with truncated rows and with many rows; only changed files are read again."""

import errno
import os

import pytest

from olivine.contents import DIGEST_BYTES, KEY_BYTES, ContentIndex, Table, digest_of
from olivine.errors import DataError

WIDTH = 4


def key(number):
    return digest_of(f"name {number}".encode(), KEY_BYTES)


def value(number):
    return number.to_bytes(WIDTH, "big")


def test_a_table_returns_its_entries_in_this_process_and_the_next(tmp_path):
    table = Table(tmp_path / "t", WIDTH)
    assert table.get(key(0)) is None
    for number in range(100):
        table.put(key(number), value(number))
    table.put(key(7), value(700))
    for found in (table, Table(tmp_path / "t", WIDTH)):
        assert found.get(key(7)) == value(700)
        assert found.get(key(99)) == value(99)
        assert found.get(key(100)) is None


def test_rows_beyond_the_bound_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.contents._NEW_ROWS", 10)
    table = Table(tmp_path / "t", WIDTH)
    for number in range(35):
        table.put(key(number), value(number))
    table.put(key(3), value(300))
    assert table.get(key(3)) == value(300)
    assert all(table.get(key(number)) == value(number) for number in range(35) if number != 3)


@pytest.mark.parametrize("cut", range(1, KEY_BYTES + WIDTH))
def test_a_row_truncated_by_a_kill_is_dropped_and_overwritten(tmp_path, cut):
    table = Table(tmp_path / "t", WIDTH)
    table.put(key(1), value(1))
    table.put(key(2), value(2))
    path = tmp_path / "t"
    os.truncate(path, path.stat().st_size - cut)
    again = Table(path, WIDTH)
    assert (again.get(key(1)), again.get(key(2))) == (value(1), None)
    again.put(key(3), value(3))
    last = Table(path, WIDTH)
    assert (last.get(key(1)), last.get(key(2)), last.get(key(3))) == (value(1), None, value(3))


def test_processes_read_each_others_files(tmp_path):
    Table(tmp_path / "one", WIDTH).put(key(1), value(1))
    two = Table(tmp_path / "two", WIDTH, [tmp_path / "one", tmp_path / "two"])
    two.put(key(2), value(2))
    assert two.get(key(1)) == value(1)
    assert Table(tmp_path / "one", WIDTH).get(key(2)) is None


def test_a_full_disk_is_an_error_and_leaves_no_partial_row(tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.contents.os.write", lambda _handle, row: len(row) - 1)
    with pytest.raises(OSError, match="space") as raised:
        Table(tmp_path / "t", WIDTH).put(key(1), value(1))
    assert raised.value.errno == errno.ENOSPC


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr("olivine.contents.SETTLED", -1.0)


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once(tmp_path):
    (tmp_path / "a").write_bytes(b"some")
    index = ContentIndex(tmp_path / "index")
    first = index.digest(tmp_path / "a")
    assert (first, index.read_bytes) == (digest_of(b"some", DIGEST_BYTES), 4)
    again = ContentIndex(tmp_path / "index")
    assert (again.digest(tmp_path / "a"), again.read_bytes) == (first, 0)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["other size", "same size", "same size and time", "replaced with its time"])
def test_a_file_that_changed_is_read_again(tmp_path, how):
    file = tmp_path / "a"
    file.write_bytes(b"some")
    index = ContentIndex(tmp_path / "index")
    before, status = index.digest(file), file.stat()
    if how == "replaced with its time":
        (tmp_path / "b").write_bytes(b"else")
        (tmp_path / "b").replace(file)
    else:
        file.write_bytes(b"another" if how == "other size" else b"else")
    if "time" in how:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index.digest(file) != before


def test_the_hash_of_a_file_that_has_just_changed_is_not_cached(tmp_path):
    (tmp_path / "a").write_bytes(b"some")
    ContentIndex(tmp_path / "index").digest(tmp_path / "a")
    again = ContentIndex(tmp_path / "index")
    again.digest(tmp_path / "a")
    assert again.read_bytes == 4


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png"):
        ContentIndex().digest(tmp_path / "gone.png")
