"""Standard error that never ends a run: what cannot be written is dropped, and the run continues."""

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class UnfailingStream:
    """A text stream that forwards everything and ignores write errors: a full disk, a closed pipe or terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written; what a full disk blocks is written later, if space is freed."""
        with suppress(OSError, ValueError):  # ValueError: closed, or text that the terminal's encoding cannot represent
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_stderr() -> None:
    """Replace `sys.stderr` with an `UnfailingStream`, unless it is one already."""
    if sys.stderr is not None and not isinstance(sys.stderr, UnfailingStream):
        sys.stderr = UnfailingStream(sys.stderr)


def release(stream: Any) -> bool:
    """Flush a standard stream and return whether that succeeded; otherwise its buffered text is discarded.

    The interpreter flushes both streams at exit, and would exit with code 120 if that failed.
    """
    if isinstance(stream, UnfailingStream):
        stream = stream._stream
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
        return False
    return True
