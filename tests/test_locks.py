"""Folders that only one process writes at a time: which process is refused, with what message, and after a kill."""

import errno
import os
import signal
import socket
import subprocess
import sys

import filelock
import pytest

from olivine.errors import RequestError, RunError
from olivine.locks import HOLDER, LOCK, exclusive_lock

HELD = """
import sys, time
from pathlib import Path
from olivine.locks import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_has_one_writer(tmp_path):
    with exclusive_lock(tmp_path / "run"):
        with pytest.raises(RequestError, match="another process is using it"), exclusive_lock(tmp_path / "run"):
            pass
        with exclusive_lock(tmp_path / "other"):
            pass
    with exclusive_lock(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()


@pytest.mark.parametrize("begun", [False, True])
def test_a_wrong_request_leaves_no_folder_and_deletes_nothing_that_was_written(tmp_path, begun):
    def asked_wrongly():
        with exclusive_lock(tmp_path / "run"):
            if begun:
                (tmp_path / "run" / "recipe.yaml").write_text("begun")
            raise RequestError("wrong")

    with pytest.raises(RequestError, match="wrong"):
        asked_wrongly()
    assert (tmp_path / "run").exists() == begun


def test_a_refusal_names_the_process_and_a_kill_frees_the_folder_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RequestError, match="another process is using it") as refused, exclusive_lock(tmp_path):
            pass
        assert f"process {process.pid} on {socket.gethostname()}, since 2" in str(refused.value)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert (tmp_path / HOLDER).is_file()
    with exclusive_lock(tmp_path):
        assert f'"process": {os.getpid()}' in (tmp_path / HOLDER).read_text()


def test_an_unreadable_lock_holder_is_not_named(tmp_path):
    with exclusive_lock(tmp_path):
        (tmp_path / HOLDER).write_text("[1")
        with pytest.raises(RequestError, match=r"using it\. Wait"), exclusive_lock(tmp_path):
            pass


def test_only_written_files_and_the_lock_file_stay(tmp_path):
    with exclusive_lock(tmp_path / "run"):
        (tmp_path / "run" / "recipe.yaml").write_text("begun")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LOCK, "recipe.yaml"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_without_write_permission_is_refused_with_a_message(tmp_path, monkeypatch, number):
    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number), str(tmp_path / LOCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(RunError, match=rf"{os.strerror(number)}.*grant access, or give another output"):
        exclusive_lock(tmp_path).__enter__()
