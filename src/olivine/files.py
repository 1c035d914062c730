"""Files that are never half-written, never outside their root, and known by their content.

Every writer goes to a temporary name beside the target and renames. No format but JSON and YAML text here.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from olivine.errors import DataError, OlivineError, RunError
from olivine.text_formats import HEAD, foreign_format

#: System errors of failed writes, by number: whether the cause is lack of space.
DISK_ERRORS = {
    errno.ENOSPC: True,
    errno.EDQUOT: True,
    errno.EFBIG: True,
    errno.EROFS: False,
    errno.EACCES: False,
    errno.EPERM: False,
}
#: Longest path that systems accept, in bytes (PATH_MAX).
LONGEST_PATH = 4096
#: Half of a surrogate pair (a text cut inside an emoji) becomes `\\udXXX`, which JSON reads back as it was.
_LONE_SURROGATES = "backslashreplace"
_decode = json.JSONDecoder().raw_decode


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        flush_to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces `path`, on error it is removed.

    Its name is always the same, so that what a kill leaves behind is removed at the next attempt.
    """
    temporary = path.with_name(f".{path.name}.partial")
    remove(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            if file.is_file():
                flush_to_disk(file)
        if os.path.lexists(path):
            # A folder cannot be replaced in one step: the old one is first renamed.
            aside = path.with_name(f".{path.name}.replaced")
            remove(aside)
            path.rename(aside)
            temporary.rename(path)
            remove(aside)
        else:
            temporary.rename(path)
    finally:
        with suppress(RunError):  # the error inside the block says more
            remove(temporary)


def remove(path: Path) -> None:
    """Remove anything of a given name: a folder, a file, or a link (never what the link points to).

    Raises:
        RunError: it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path}: is in the way and cannot be removed ({error.strerror}). Remove it by hand.") from None


@contextmanager
def full_disk_reported(folder: Path) -> Iterator[None]:
    """Turn the error of a full or unwritable disk into one that says what to do.

    Writers in other languages (of safetensors, of tokenizers) raise their own errors, which name the system's number.

    Raises:
        RunError: the disk, the user's quota or the largest file size is exhausted, or the folder is not writable.
    """
    try:
        yield
    except OlivineError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number not in DISK_ERRORS:
            raise
        where = getattr(error, "filename", None) or folder
        # Access may be denied to something that is only read.
        problem = "no access" if number in (errno.EACCES, errno.EPERM) else "cannot be written"
        todo = "free disk space" if DISK_ERRORS[number] else "grant access, or give another output,"
        raise RunError(
            f"{where}: {problem} ({os.strerror(number)}). What was saved before is intact: "
            f"{todo} and run the same command to resume."
        ) from None


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    named = re.search(r"\(os error (\d+)\)", str(error))
    return int(named.group(1)) if named else None


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; half of a surrogate pair, which UTF-8 cannot encode, as its escape."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=_LONE_SURROGATES)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", errors=_LONE_SURROGATES) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def append_json_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON object to a log, in a single write so that a kill leaves at most one truncated line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors=_LONE_SURROGATES) as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def keep_json_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> dict[int, str]:
    """Drop the lines of a log that `keep` rejects, and a last one that a kill truncated.

    A damaged line affects no other: it is moved to a file beside the log, `NAME.damaged`, and returned. The log is read
    line by line and never fully in memory; if only its end is dropped, it is truncated in place.

    Returns:
        What is wrong with each damaged line, by its number from 1.
    """
    damaged: dict[int, str] = {}
    dropped = False  # a line before one that is kept
    end = last = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            end += len(line)
            kept = _kept(line, keep, number, damaged)
            dropped |= kept and last + len(line) < end
            last = end if kept else last
    if damaged or dropped:
        _rewrite(path, keep, damaged)
    else:
        os.truncate(path, last)
    return damaged


def _kept(line: bytes, keep: Callable[[dict[str, Any]], bool], number: int, damaged: dict[int, str]) -> bool:
    if not line.endswith(b"\n"):
        return False  # truncated by a kill
    try:
        return keep(json.loads(line))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        damaged[number] = type(error).__name__ if isinstance(error, RecursionError) else str(error)
        return False


def _rewrite(path: Path, keep: Callable[[dict[str, Any]], bool], damaged: Mapping[int, str]) -> None:
    with (
        atomic_file(path) as temporary,
        path.open("rb") as file,
        temporary.open("wb") as target,
        path.with_name(f"{path.name}.damaged").open("ab") as aside,
    ):
        for number, line in enumerate(file, start=1):
            if number in damaged:
                aside.write(line)
            elif _kept(line, keep, number, {}):
                target.write(line)


def flush_to_disk(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, would survive a power failure.

    Windows opens no folder, and flushes only files that are open for writing.
    """
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing, in another format, nested too deeply, or not complete JSON (with the line).
    """
    text = _read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})."
        if error.msg == "Extra data" and text.lstrip()[:1] == "{":
            raise DataError(f"{where} Are these JSON lines, one object per line? Expected one JSON value.") from None
        cut = error.msg.startswith("Unterminated string") or not text[error.pos :].strip()
        advice = "The file ends there: is it truncated? Fetch or write it again." if cut else "Repair it there."
        raise DataError(f"{where} {advice}") from None
    except RecursionError:
        raise DataError(f"{path}: the JSON is nested too deeply to be read.") from None
    except (ValueError, MemoryError) as error:  # a number with more digits than Python reads, or too large a file
        raise DataError(f"{path}: the JSON cannot be read ({error}).") from None


def read_json_lines(path: Path, *, allow_cut_end: bool = False) -> list[dict[str, Any]]:
    """Read one JSON object per line; blank lines are ignored.

    `allow_cut_end` drops a last line that a kill truncated (for logs that are appended to).

    Raises:
        DataError: the file is missing, or a line is not a JSON object (with its number).
    """
    rows: list[dict[str, Any]] = []
    text = _read_text(path, allow_cut_end=allow_cut_end)
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _json_of_line(line)
        except (ValueError, RecursionError, MemoryError) as error:
            if allow_cut_end and number == len(lines):
                break
            problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(
                f"{path}: line {number} is not valid JSON ({problem}). Expected one object per line."
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is a {type(row).__name__}; expected one JSON object per line.")
        rows.append(row)
    return rows


def _json_of_line(line: str) -> Any:
    """Return the same as `json.loads`, in two thirds of the time if nothing surrounds the value."""
    try:
        value, end = _decode(line)
    except ValueError:
        return json.loads(line)
    return value if end == len(line) else json.loads(line)


def sha256_of_file(path: Path) -> str:
    """Return the content hash of a file, in hexadecimal.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def safe_join(root: Path, relative: str) -> Path:
    """Return the path of `relative` under `root`.

    The check is on the text of the path, not on what links point to: a user may well link `coco/` into an
    image root, but a data file must not be able to name a path outside it.

    Raises:
        DataError: `relative` is absolute or climbs out of `root`.
    """
    if "\0" in relative:
        raise DataError(f"path {relative[:80]!r} contains a NUL character; expected a path relative to {root}.")
    try:
        too_long = len(os.fsencode(relative)) > LONGEST_PATH
    except UnicodeEncodeError:
        raise DataError(
            f"path {relative[:80]!r} contains half a character (a lone surrogate), which no file name can."
        ) from None
    if too_long:
        raise DataError(f"path {relative[:80]!r}... has {len(relative):,} characters; no file system accepts that.")
    path = PurePosixPath(relative.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"path {relative!r} leaves the root {root}; expected a path relative to it, without '..'.")
    return root / path


def _read_text(path: Path, *, allow_cut_end: bool = False) -> str:
    try:
        content = path.read_bytes()
        foreign = foreign_format(content[:HEAD])
        if foreign is not None:
            raise DataError(f"{path}: expected JSON; this is {foreign}.")
        if allow_cut_end:  # a kill may truncate inside a character
            end = content.rfind(b"\n") + 1
            return content[:end].decode("utf-8-sig") + content[end:].decode("utf-8", errors="replace")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error that says why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: file not found. Check the path.")
    return DataError(f"{path}: cannot be read ({error.strerror}).")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
