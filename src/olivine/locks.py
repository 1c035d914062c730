"""Folders that one process writes at a time: the lock, and which process holds it.

Locking is done by `filelock`: with the system's own locks (flock, LockFileEx), which are released with their process
however it ends; or, on a network file system without them, a marker file.
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

#: In a folder that one process writes at a time: the lock file, and a file that names the process holding it.
LOCK, HOLDER = ".lock", ".lock.holder"


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, of this machine or another.

    The lock is released with the process, however it ends. It is not reentrant. A request that fails before anything is
    written leaves no folder.

    Raises:
        RequestError: another process is using the folder; the message names it.
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
    from filelock import FileLock, Timeout  # here: importing it would slow down `olivine --help`

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RequestError(
            f"{folder}: another process is using it{_holder(folder)}. Wait until it is done, or stop it."
        ) from None
    except NotImplementedError as error:
        raise RunError(f"{folder}: its file system has no locks ({error}). Choose a folder on another one.") from None
    return lock


def _holder(folder: Path) -> str:
    """Return who holds the lock, for the message; empty if that cannot be read."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f" (process {holder['process']} on {holder['host']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
