"""Remembered content hashes of files, by name, size and modification times, in append-only tables.

What the hashes are used for is up to the caller; reading images is in `data`.
"""

import errno
import hashlib
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from olivine.errors import DataError

#: Bytes of a name's digest. Among a million names, the chance that any two collide is one in 30 million.
KEY_BYTES = 8
#: Bytes of a content's digest.
DIGEST_BYTES = 16
#: A file that changed less than this many seconds ago may change again without a change of its times.
SETTLED = 2.0
#: New rows kept in a dict before they join the sorted ones: bounds the memory per row to about its own bytes.
_NEW_ROWS = 65_536


def digest_of(content: bytes, size: int = DIGEST_BYTES) -> bytes:
    """Return the first `size` bytes of the SHA-256 of some bytes."""
    return hashlib.sha256(content).digest()[:size]


class Table:
    """Values of a fixed number of bytes under keys of `KEY_BYTES`, kept in a file that is only appended to.

    In memory a row takes only its own bytes. A row that a kill truncated is dropped; of several rows of a key the last
    counts. Threads may share a table; processes append to their own files and read each other's when they start.

    Args:
        path: the file to append to; None keeps nothing.
        width: bytes of a value.
        others: further files to read, those of earlier processes.

    Raises:
        OSError: from `put`: the disk is full, or the folder is not writable.
    """

    def __init__(self, path: Path | None, width: int, others: Sequence[Path] = ()) -> None:
        self._path, self._width = path, width
        self._handle: int | None = None
        self._new: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        files = [file for file in dict.fromkeys([*others, *([path] if path else [])]) if file.is_file()]
        self._keys, self._values = self._sorted(b"".join(self._whole_rows(file) for file in files))

    def get(self, key: bytes) -> bytes | None:
        """Return the value under a key, None if there is none."""
        with self._lock:
            found = self._new.get(key)
            if found is not None:
                return found
            number = np.uint64(int.from_bytes(key, "big"))
            position = int(np.searchsorted(self._keys, number))
            here = position < len(self._keys) and self._keys[position] == number
            return self._values[position].tobytes() if here else None

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value under a key; it has been handed to the operating system when this returns."""
        assert len(key) == KEY_BYTES, "keys have one length"
        assert len(value) == self._width, "values have one length"
        with self._lock:
            self._new[key] = value
            if self._path is not None:
                self._append(self._path, key + value)
            if len(self._new) >= _NEW_ROWS:
                keys = self._keys.astype(">u8").view(np.uint8).reshape(-1, KEY_BYTES)
                old = np.concatenate([keys, self._values], axis=1).tobytes()
                self._keys, self._values = self._sorted(old + b"".join(k + v for k, v in self._new.items()))
                self._new = {}

    def _append(self, path: Path, row: bytes) -> None:
        if self._handle is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Opened once: on a network file system, opening costs many times as much as writing a row.
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            weakref.finalize(self, os.close, self._handle)
        if os.write(self._handle, row) < len(row):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _whole_rows(self, file: Path) -> bytes:
        content = file.read_bytes()
        row = KEY_BYTES + self._width
        whole = len(content) // row * row
        if file == self._path and whole < len(content):  # the next append must start at a row boundary
            os.truncate(file, whole)
        return content[:whole]

    def _sorted(self, content: bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        rows = np.frombuffer(content, np.uint8).reshape(-1, KEY_BYTES + self._width)
        keys = np.ascontiguousarray(rows[:, :KEY_BYTES]).view(">u8").ravel().astype(np.uint64)
        # Of equal keys the last row counts: it is the first in reverse.
        unique, first = np.unique(keys[::-1], return_index=True)
        return unique, np.ascontiguousarray(rows[::-1][first, KEY_BYTES:])


class ContentIndex:
    """Digests of files, each read again only if its size, its modification times or its inode differ.

    Args:
        path: where digests are kept between runs; None keeps none.
    """

    _STAMP_BYTES = 8

    def __init__(self, path: Path | None = None) -> None:
        self._table = Table(path, self._STAMP_BYTES + DIGEST_BYTES)
        #: Bytes that had to be read.
        self.read_bytes = 0

    def digest(self, file: Path) -> bytes:
        """Return the digest of a file's content.

        Raises:
            DataError: it cannot be read.
        """
        try:
            before = file.stat()
            key = digest_of(os.fsencode(file.absolute()), KEY_BYTES)
            # The inode's change time cannot be set back, unlike the content's modification time (cp -p, rsync -t).
            what = f"{before.st_size} {before.st_mtime_ns} {before.st_ctime_ns} {before.st_ino}"
            stamp = digest_of(what.encode(), self._STAMP_BYTES)
            known = self._table.get(key)
            if known is not None and known[: self._STAMP_BYTES] == stamp:
                return known[self._STAMP_BYTES :]
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").digest()[:DIGEST_BYTES]
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}).") from None
        self.read_bytes += before.st_size
        if time.time() - max(before.st_mtime, before.st_ctime) > SETTLED:
            self._table.put(key, stamp + found)
        return found
