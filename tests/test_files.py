"""Files and folders after a kill or on a full disk."""

import errno
import os
import re
from pathlib import Path

import pytest

from olivine.errors import RunError
from olivine.files import (
    append_json_line,
    atomic_folder,
    flush_to_disk,
    full_disk_reported,
    keep_json_lines,
    read_json,
    read_json_lines,
    write_json,
    write_json_lines,
)


def test_a_partial_folder_left_by_a_kill_is_removed_at_the_next_attempt(tmp_path):
    left = tmp_path / ".checkpoint.partial"
    left.mkdir()
    (left / "half").write_text("a kill's")
    with atomic_folder(tmp_path / "checkpoint") as folder:
        (folder / "whole").write_text("ours")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["whole"]


def test_a_full_disk_is_reported_and_other_errors_pass_through(tmp_path):
    with (
        pytest.raises(RunError, match=r"No space left.*free disk space and run the same command"),
        full_disk_reported(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InterruptedError), full_disk_reported(tmp_path):
        raise InterruptedError(errno.EINTR, "interrupted")


def test_full_disk_errors_of_other_writers_are_reported(tmp_path):
    """The writers of safetensors and of tokenizers raise their own errors."""
    for said in ("Error while serializing: I/O error: No space left on device (os error 28)", "(os error 27)"):
        with pytest.raises(RunError, match="free disk space and run the same command"), full_disk_reported(tmp_path):
            raise ValueError(said)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_without_write_permission_is_reported(tmp_path, number):
    with pytest.raises(RunError, match=r"there/x.*grant access, or give another output"), full_disk_reported(tmp_path):
        raise OSError(number, "no", "there/x")


PLANTED = {
    "a file": lambda path: path.write_text("x"),
    "a folder": lambda path: (path.mkdir(), (path / "f").write_text("x")),
    "a link to a folder": lambda path: path.symlink_to(path.parent / "kept"),
    "a link to nothing": lambda path: path.symlink_to(path.parent / "nothing"),
}


@pytest.mark.parametrize("name", [".checkpoint.partial", ".checkpoint.replaced", "checkpoint"])
@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_at_a_folders_path_is_replaced_and_a_links_target_is_kept(tmp_path, name, kind):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "precious").write_text("x")
    PLANTED[kind](tmp_path / name)
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "checkpoint") as folder:
            (folder / "whole").write_text(content)
        assert (tmp_path / "checkpoint" / "whole").read_text() == content
        assert not (tmp_path / "checkpoint").is_symlink()
    assert (tmp_path / "kept" / "precious").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "kept"]


DAMAGES = {
    "a wrong character": (b'{"step": 1}', b'#"step": 1}'),
    "bytes that are no text": (b'{"step": 1}', b'{"step": "\xff\xfe"}'),
    "a value that is no row": (b'{"step": 1}', b"5"),
    "a row without a step": (b'{"step": 1}', b"{}"),
    "an empty line": (b'{"step": 1}', b""),
    "two lines run into one": (b'{"step": 1}\n', b'{"step": 1}'),
    "brackets without end": (b'{"step": 1}', b"[" * 100_000),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_line_affects_no_other_line(tmp_path, kind):
    log = tmp_path / "log.jsonl"
    before, after = DAMAGES[kind]
    log.write_bytes(b"".join(b'{"step": %d}\n' % n for n in range(6)).replace(before, after) + b'{"step": 6, "lo')
    damaged = keep_json_lines(log, lambda row: row["step"] < 5)
    assert list(damaged) == [2]
    kept = [row["step"] for row in read_json_lines(log)]
    assert kept == ([0, 3, 4] if kind == "two lines run into one" else [0, 2, 3, 4])
    assert (tmp_path / "log.jsonl.damaged").read_bytes().startswith(after[:20].rstrip(b"\n"))
    assert keep_json_lines(log, lambda row: row["step"] < 5) == {}


def test_half_an_emoji_is_written_and_read_back(tmp_path):
    text = "a \ud83d b"
    write_json(tmp_path / "one.json", {"text": text})
    write_json_lines(tmp_path / "some.jsonl", [{"text": text}])
    append_json_line(tmp_path / "some.jsonl", {"text": text})
    assert read_json(tmp_path / "one.json") == {"text": text}
    assert read_json_lines(tmp_path / "some.jsonl") == [{"text": text}] * 2


def test_if_folders_cannot_be_opened_only_files_are_flushed(tmp_path, monkeypatch):
    opened = []
    original = os.open
    (tmp_path / "file").write_text("x")

    def record(path, flags, *more):
        opened.append((path, flags))
        return original(path, flags, *more)

    def as_on_windows(path):
        with monkeypatch.context() as patched:
            patched.setattr("olivine.files.os.open", record)
            patched.setattr("olivine.files.os.name", "nt")
            flush_to_disk(path)

    as_on_windows(tmp_path)
    as_on_windows(tmp_path / "file")
    assert opened == [(tmp_path / "file", os.O_RDWR)]


def test_no_module_needs_what_windows_lacks():
    """Modules that Python on Windows lacks are never imported; functions that it lacks are checked for first."""
    lacking = re.compile(
        r"^\s*(?:import|from) (?:fcntl|grp|pwd|resource|termios)\b|os\.fork\(|\bsignal\.SIG(?:HUP|USR\d)", re.M
    )
    source = Path(__file__).parents[1] / "src" / "olivine"
    found = {path.name: lacking.findall(path.read_text(encoding="utf-8")) for path in source.rglob("*.py")}
    assert not {name: hits for name, hits in found.items() if hits}
