"""Carry a plan out: every step after what it needs, a step that dies tried again, then reported while the rest resumes.

Where steps run is each launcher's own: `launch_local`, `launch_processes`, `launch_ray`, or one that another package
offers. Results travel through the study's directory alone.
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

#: Beside a step's output: why it failed, with the stack trace.
ERROR = "error.txt"
TRIES = 2


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that could not be done, after all tries; or one that was never begun, since what it needs was not done."""

    step: Step
    reason: str
    begun: bool = True


class Progress(Protocol):
    """Told about the whole plan as it is carried out."""

    def begin(self, step: Step) -> None:
        """A step begins."""

    def within(self, done: int, total: int) -> None:
        """How far the present step is, where that is known."""

    def log_line(self, step: Step, text: str) -> None:
        """A step that runs in another process has something to tell."""

    def end(self, step: Step, failure: Failure | None) -> None:
        """A step is over."""


class Pool(Protocol):
    """Workers that carry out several steps at a time; what they are and when one is free is the pool's to know."""

    def begin(self, ready: Sequence[Step]) -> Step | None:
        """Begin one of the steps, all of which could begin now, and say which; None while no worker is free."""

    def outcome(self) -> tuple[Step, str | None]:
        """Wait until a step that was begun is over: None, or why it failed."""


Launcher = Callable[[Plan, Console, Progress], list[Failure]]
#: The entry-point group of launchers: a name, and a function from the number of jobs to a `Launcher`.
LAUNCHERS = "olivine.launchers"


def launcher(name: str, jobs: int = 1) -> Launcher:
    """Return a launcher by its name, as installed packages offer them under the entry-point group `LAUNCHERS`.

    Args:
        name: local, ray, or one that another package offers.
        jobs: steps at a time on this machine; 1 means in this process.

    Raises:
        RequestError: none is called so, it is not installed, or it takes no number of jobs.
    """
    if jobs < 1:
        raise RequestError(f"--jobs {jobs}: give 1 or more.")
    if name not in offered(LAUNCHERS):
        raise RequestError(f"--launcher: {unknown_name(name, offered(LAUNCHERS))}")
    make: Callable[[int], Launcher] = load(LAUNCHERS, name)
    return make(jobs)


def launch_over(pool: Pool, plan: Plan, progress: Progress) -> list[Failure]:
    """Carry out what is left of a plan, as many steps at a time as the pool has workers for."""
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
    """The failure of a step that needs one which failed."""
    failed = next((key for key in step.needs if key in failures), None)
    return None if failed is None else Failure(step, f"not begun: {failed} failed", begun=False)


def attempt(worker: Worker, step: Step, after: Step | None, on_progress: Callable[[int, int], None]) -> str | None:
    """Carry out a step, again if it dies; None, or why it failed, which its folder then tells with the stack trace.

    Raises:
        Stopped: whoever stopped the step meant the study.
    """
    reason: str | None = None
    for number in range(1, TRIES + 1):
        try:
            worker.run(step, after, on_progress)
        except OlivineError as error:
            reason = str(error)
        except Exception as error:
            # Whatever broke must not take the other configurations with it; the trace is kept for who mends it.
            reason = f"{type(error).__name__}: {error}"
        else:
            (step.folder / ERROR).unlink(missing_ok=True)
            return None
        with suppress(OSError):  # a full disk has no room for this either
            write_text(step.folder / ERROR, f"try {number} of {TRIES}\n{reason}\n\n{traceback.format_exc()}")
        worker.release()
    return reason
