"""Folders that one process writes at a time, and what a kill or a full disk leaves."""

import errno

import pytest

from olivine.errors import RequestError, RunError
from olivine.files import LOCK, atomic_folder, full_disk_told, only_process_in


def test_a_folder_has_one_writer(tmp_path):
    with only_process_in(tmp_path / "run"):
        with pytest.raises(RequestError, match="another process is at work"), only_process_in(tmp_path / "run"):
            pass
        with only_process_in(tmp_path / "other"):
            pass
    with only_process_in(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()


@pytest.mark.parametrize("begun", [False, True])
def test_a_wrong_request_leaves_no_folder_but_never_takes_what_was_written(tmp_path, begun):
    def asked_wrongly():
        with only_process_in(tmp_path / "run"):
            if begun:
                (tmp_path / "run" / "recipe.yaml").write_text("begun")
            raise RequestError("wrong")

    with pytest.raises(RequestError, match="wrong"):
        asked_wrongly()
    assert (tmp_path / "run").exists() == begun


def test_what_a_kill_left_of_a_folder_is_gone_at_the_next_attempt(tmp_path):
    left = tmp_path / ".checkpoint.partial"
    left.mkdir()
    (left / "half").write_text("a kill's")
    with atomic_folder(tmp_path / "checkpoint") as folder:
        (folder / "whole").write_text("ours")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["whole"]


def test_a_full_disk_is_told_and_other_errors_are_left(tmp_path):
    with pytest.raises(RunError, match=r"No space left.*make room and run the same command"), full_disk_told(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InterruptedError), full_disk_told(tmp_path):
        raise InterruptedError(errno.EINTR, "interrupted")
