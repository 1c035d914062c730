"""How the command line reports an exception that nothing else caught: one line, and the stack trace in a file.

Users' mistakes and failed runs are `OlivineError`s, which are reported elsewhere.
"""

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from rich.console import Console

from olivine import __version__
from olivine.files import DISK_ERRORS

#: If set to anything but 0, the stack trace is printed too.
DEBUG = "OLIVINE_DEBUG"


def report(error: BaseException, log: Console) -> None:
    """Print one line that says what went wrong and where the stack trace was saved."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        where = error.filename or "standard output or a file"
        line = f"{where}: cannot be written ({error.strerror}). Free some space, or write elsewhere, and run it again."
    elif isinstance(error, MemoryError):
        line = "out of memory. Lower what the command keeps in memory, or run it on a machine with more."
    else:
        message = (str(error).strip().splitlines() or [""])[0][:300]
        line = f"{type(error).__name__}: {message}. This is a bug in Olivine. {_report_to()}"
    path = _save(error)
    log.print(
        f"error: {line} The stack trace is in {path}." if path else f"error: {line}", markup=False, highlight=False
    )
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        log.print(_trace(error), markup=False, highlight=False)


def _save(error: BaseException) -> Path | None:
    """Write the stack trace to the working directory or the temporary folder; return None if neither is writable."""
    name = f"olivine-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = f"olivine {__version__}, Python {sys.version}, {sys.platform}\n{' '.join(sys.argv)}\n\n{_trace(error)}"
    for folder in _folders():
        path = folder / name
        try:
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return path
    return None


def _folders() -> Iterator[Path]:
    """Yield the folders to try for the stack trace, best first; the working directory may no longer exist."""
    with suppress(OSError):
        yield Path.cwd()
    with suppress(OSError):
        yield Path(tempfile.gettempdir())


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _report_to() -> str:
    try:
        urls = metadata("olivine").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    tracker = next((url.rpartition(", ")[2] for url in urls if url.lower().startswith(("issue", "bug", "repo"))), None)
    return f"Please report it with the stack trace: {tracker or 'the issue tracker of the project'}."
