"""The work of a check distributed over processes, with a journal of finished jobs so that nothing is done twice.

What a job does is in `check_jobs`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from olivine.available_cpus import end_with_parent
from olivine.data.check_jobs import ImageFindings, Items, LengthFindings, LengthLimit, check_images, check_lengths
from olivine.data.images import ImageTransform
from olivine.errors import RequestError, RunError
from olivine.process_setup import ignore_known_warnings
from olivine.recipe import DataRecipe

#: Called with (what is being checked, done, total).
Progress = Callable[[str, int, int], None]
#: Fewer jobs than this are not worth the second that a process takes to start.
_JOBS_WORTH_PROCESSES = 8
_WAITING_PER_PROCESS = 4


def no_progress(*_: object) -> None:
    """Report nothing."""


class Worker:
    """A worker that runs jobs, in this process or in others."""

    def __init__(self, source: DataRecipe, transform: ImageTransform | None, limit: LengthLimit | None) -> None:
        self.source, self.transform, self.limit = source, transform, limit

    def __call__(self, job: Sequence[str] | Items) -> ImageFindings | LengthFindings:
        """Return one job's findings."""
        if isinstance(job, Items):
            assert self.limit is not None, "lengths are checked only if there is a limit"
            return check_lengths(self.source, job, self.limit)
        return check_images(self.source, job, self.transform)


def run_jobs(
    worker: Worker, jobs: Sequence[tuple[int, Sequence[str] | Items]], processes: int
) -> Iterator[tuple[int, Any]]:
    """Yield (number, findings) of each job, as they finish.

    Raises:
        RunError: a process was killed.
    """
    if processes < 2 or len(jobs) < _JOBS_WORTH_PROCESSES:
        for number, job in jobs:
            yield number, worker(job)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin, initargs=(worker,))
    try:
        waiting: dict[Future[Any], int] = {}
        todo = iter(jobs)
        while True:
            while len(waiting) < _WAITING_PER_PROCESS * processes and (following := next(todo, None)) is not None:
                waiting[pool.submit(_do, following[1])] = following[0]
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool:
        raise RunError(
            "data check: one of its processes was killed, perhaps for lack of memory. Run the same command again with "
            "--jobs 1: finished work is kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Worker | None = None


def _begin(worker: Worker) -> None:
    end_with_parent()
    ignore_known_warnings()
    global _worker  # a pool's process has no other place for what all its jobs share
    _worker = worker


def _do(job: Sequence[str] | Items) -> Any:
    assert _worker is not None, "a process starts with its worker"
    return _worker(job)


class Journal:
    """What has been found so far, one line per job: a kill loses only the jobs that were running.

    Args:
        path: the file; None keeps nothing.
        request: what the findings depend on; a journal of another request is started again.
    """

    def __init__(self, path: Path | None, request: Mapping[str, Any]) -> None:
        self._path = path
        self.kept = path is not None
        self._rows: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        head = {"request": json.loads(json.dumps(request))}
        try:
            kept = _whole_lines(path)
            if kept and kept[0] == head:
                self._rows = {row["key"]: row for row in kept[1:] if isinstance(row.get("key"), str)}
            else:
                path.write_text(json.dumps(head) + "\n", encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise RequestError(
                f"{path}: a full check's journal cannot be kept there ({error.strerror}). Give --journal FILE."
            ) from None

    def images(self, key: str) -> ImageFindings | None:
        """Return the findings on some images, if they have been checked."""
        row = self._rows.get(f"images {key}")
        return ImageFindings([tuple(b) for b in row["broken"]], row["counts"], row["named"]) if row else None

    def lengths(self, key: str) -> LengthFindings | None:
        """Return the findings on some samples, if they have been checked."""
        row = self._rows.get(f"items {key}")
        return LengthFindings(row["longest"], [tuple(b) for b in row["broken"]]) if row else None

    def add(self, key: str, findings: ImageFindings | LengthFindings) -> None:
        """Record one job's findings."""
        if self._path is not None:
            kind = "images" if isinstance(findings, ImageFindings) else "items"
            self._file.write(json.dumps({"key": f"{kind} {key}", **asdict(findings)}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            self._file.close()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal up to the first that a kill truncated, and cut off the rest."""
    if not path.is_file():
        return []
    rows = []
    content = path.read_bytes()
    end = 0
    for line in content.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(row, dict):
            break
        rows.append(row)
        end += len(line)
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
    return rows
