"""Folders that one process writes at a time: the lock, and who holds it.

Locking itself is `filelock`'s: the system's own locks (flock, LockFileEx), which end with their process however that
ends; where a network file system has none, a marker file.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from olivine.errors import RequestError, RunError
from olivine.files import full_disk_reported, write_json

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: In a folder that one process writes at a time: what is locked, and beside it the process that holds it.
LOCK, HOLDER = ".lock", ".lock.holder"


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keep other processes, of this machine or another, out of a folder.

    The lock goes with the process, however it ends. It is not reentrant: whoever holds it is refused too. What fails
    before it has written anything, a wrong request, leaves no folder.

    Raises:
        RequestError: another process is at work in the folder; the message names it.
        RunError: the folder cannot be written or locked.
    """
    with full_disk_reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquired(folder)
    try:
        with full_disk_reported(folder):
            write_json(folder / HOLDER, {"process": os.getpid(), "host": socket.gethostname(), "since": _now()})
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()  # while it is held; Windows keeps a file that is open
                folder.rmdir()
        lock.release()


def _acquired(folder: Path) -> "BaseFileLock":
    from filelock import FileLock, Timeout  # here: it takes longer to import than `olivine --help` may

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RequestError(
            f"{folder}: another process is at work there{_holder(folder)}. Wait until it is done, or stop it."
        ) from None
    except NotImplementedError as error:
        raise RunError(f"{folder}: its file system has no locks ({error}). Choose a folder on another one.") from None
    return lock


def _holder(folder: Path) -> str:
    """Return who holds the lock, as the message has it; empty where that cannot be read."""
    try:
        held = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f" (process {held['process']} on {held['host']}, since {held['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
