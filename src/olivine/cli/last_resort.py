"""What the command line says when nobody else caught what went wrong: one line, and the trace in a file.

A user's mistakes and runs that fail are `OlivineError`s, told elsewhere.
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

#: Set to anything but 0, the trace is printed too.
DEBUG = "OLIVINE_DEBUG"


def tell(error: BaseException, log: Console) -> None:
    """Say in one line what went wrong, and where its trace is kept."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        where = error.filename or "standard output or a file"
        line = f"{where}: cannot be written ({error.strerror}). Make room, or write elsewhere, and run it again."
    elif isinstance(error, MemoryError):
        line = "out of memory. Lower what the command holds at once, or run it where there is more."
    else:
        said = (str(error).strip().splitlines() or [""])[0][:300]
        line = f"{type(error).__name__}: {said}. This is a fault of Olivine's own. {_report_to()}"
    kept = _keep(error)
    log.print(f"error: {line} The trace is in {kept}." if kept else f"error: {line}", markup=False, highlight=False)
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        log.print(_trace(error), markup=False, highlight=False)


def _keep(error: BaseException) -> Path | None:
    """Write the trace to the working folder, or where files of a moment go; None where neither can be written."""
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
    """Where a trace may be kept, best first; the working folder may be gone."""
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
    return f"Please report it with that trace: {tracker or 'the issue tracker of the project'}."
