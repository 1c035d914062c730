"""Carry out a plan: run each step after those it needs; retry a step that dies, then report it and run the rest.

Where steps run is up to each launcher: `launch_local`, `launch_processes`, `launch_ray`, or one that another package
provides. Results are exchanged only through the study's directory.
"""

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console

from olivine.ablation.plan import Plan, Step
from olivine.ablation.steps import Worker
from olivine.errors import OlivineError, RequestError, unknown_name
from olivine.files import write_text
from olivine.registry import load, offered

#: File beside a step's output: why the step failed, with the stack trace.
ERROR = "error.txt"
TRIES = 2


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that failed in all its tries, or that was never started because a step that it needs failed."""

    step: Step
    reason: str
    begun: bool = True


class Progress(Protocol):
    """What is notified of a plan's progress while it is carried out."""

    def begin(self, step: Step) -> None:
        """Note that a step has started."""

    def within(self, done: int, total: int) -> None:
        """Note how far the current step is, where that is known."""

    def log_line(self, step: Step, text: str) -> None:
        """Log a line from a step that runs in another process."""

    def end(self, step: Step, failure: Failure | None) -> None:
        """Note that a step has ended."""


class Pool(Protocol):
    """Workers that carry out steps; the pool knows what they are and when one of them is free."""

    def begin(self, ready: Sequence[Step]) -> Step | None:
        """Start one of the steps, all of which are ready, and return it; return None while no worker is free."""

    def outcome(self) -> tuple[Step, str | None]:
        """Wait until a started step has ended; return it with the reason it failed, or with None."""


Launcher = Callable[[Plan, Console, Progress], list[Failure]]
#: The entry-point group of launchers; each entry is a function from the number of jobs to a `Launcher`.
LAUNCHERS = "olivine.launchers"


def launcher(name: str, jobs: int = 1) -> Launcher:
    """Return a launcher by its name, from those that installed packages register in the entry-point group `LAUNCHERS`.

    Args:
        name: local, ray, or one that another package provides.
        jobs: steps to run in parallel on this machine; 1 runs them in this process.

    Raises:
        RequestError: the name is unknown, the launcher is not installed, or it takes no number of jobs.
    """
    if jobs < 1:
        raise RequestError(f"--jobs {jobs}: give 1 or more.")
    if name not in offered(LAUNCHERS):
        raise RequestError(f"--launcher: {unknown_name(name, offered(LAUNCHERS))}")
    make: Callable[[int], Launcher] = load(LAUNCHERS, name)
    return make(jobs)


def launch_over(pool: Pool, plan: Plan, progress: Progress) -> list[Failure]:
    """Carry out the remaining steps of a plan, as many in parallel as the pool has workers."""
    waiting = {step.key: step for step in plan.left()}
    running: set[str] = set()
    failures: dict[str, Failure] = {}
    while waiting or running:
        for step in list(waiting.values()):
            failure = blocked_by(step, failures)
            if failure is not None:
                failures[step.key] = failure
                del waiting[step.key]
                progress.end(step, failure)
        unfinished = waiting.keys() | running
        ready = [step for step in waiting.values() if unfinished.isdisjoint(step.needs)]
        while ready and (begun := pool.begin(ready)) is not None:
            progress.begin(begun)
            ready.remove(begun)
            running.add(begun.key)
            del waiting[begun.key]
        if running:
            step, reason = pool.outcome()
            running.remove(step.key)
            failure = None if reason is None else Failure(step, reason)
            if failure is not None:
                failures[step.key] = failure
            progress.end(step, failure)
    return list(failures.values())


def blocked_by(step: Step, failures: dict[str, Failure]) -> Failure | None:
    """Return the failure of a step that needs a failed one; None if it needs none."""
    failed = next((key for key in step.needs if key in failures), None)
    return None if failed is None else Failure(step, f"not started: {failed} failed", begun=False)


def attempt(worker: Worker, step: Step, after: Step | None, on_progress: Callable[[int, int], None]) -> str | None:
    """Carry out a step, retrying it if it dies; return the reason if it failed, and write it to the step's folder.

    Raises:
        Stopped: the step was stopped, which stops the whole study.
    """
    reason: str | None = None
    for number in range(1, TRIES + 1):
        try:
            worker.run(step, after, on_progress)
        except OlivineError as error:
            reason = str(error)
        except Exception as error:
            # One failure must not end the other configurations; the stack trace is kept for debugging.
            reason = f"{type(error).__name__}: {error}"
        else:
            (step.folder / ERROR).unlink(missing_ok=True)
            return None
        with suppress(OSError):  # a full disk has no space for this either
            write_text(step.folder / ERROR, f"try {number} of {TRIES}\n{reason}\n\n{traceback.format_exc()}")
        worker.release()
    return reason
