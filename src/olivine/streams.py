"""Standard error that never ends a run: what cannot be told is not told, and the work resumes.

What is told is up to whoever prints.
"""

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class UnfailingStream:
    """A text stream that passes everything on and swallows what goes wrong: a full disk, a closed pipe or terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written; what a full disk holds back is written later, if room is made."""
        with suppress(OSError, ValueError):  # ValueError: closed, or text that the terminal's encoding lacks
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_stderr() -> None:
    """Put an `UnfailingStream` in the place of `sys.stderr`; one that is there stays."""
    if sys.stderr is not None and not isinstance(sys.stderr, UnfailingStream):
        sys.stderr = UnfailingStream(sys.stderr)


def release(stream: Any) -> bool:
    """Return whether all that was written to a standard stream has arrived; what has not is given up.

    The interpreter flushes both streams as it ends, and would end with exit code 120 where that fails.
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
