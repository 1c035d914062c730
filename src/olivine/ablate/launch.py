"""Carry a plan out: every step after what it needs, a step that dies tried again, then reported while the rest goes on.

In this process here; over Ray in `launch_ray`. Results travel through the study's directory alone.
"""

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console

from olivine.ablate.plan import Plan, Step
from olivine.ablate.steps import Worker
from olivine.errors import OlivineError, RequestError, Stopped, unknown_name
from olivine.files import write_text

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

    def end(self, step: Step, failure: Failure | None) -> None:
        """A step is over."""


Launcher = Callable[[Plan, Console, Progress], list[Failure]]


def launcher(name: str) -> Launcher:
    """A launcher by its name.

    Raises:
        RequestError: none is called so, or it is not installed.
    """
    if name == "local":
        return launch_here
    if name == "ray":
        from olivine.ablate.launch_ray import launch_on_ray

        return launch_on_ray
    raise RequestError(f"--launcher: {unknown_name(name, ['local', 'ray'])}")


def launch_here(plan: Plan, console: Console, progress: Progress) -> list[Failure]:
    """Carry out what is left of a plan, step after step, in this process.

    Raises:
        Stopped: SIGTERM came; the step under way has saved what it had.
    """
    worker = Worker(console)
    failures: dict[str, Failure] = {}
    for step in plan.left():
        failure = held_up(step, failures)
        if failure is None:
            progress.begin(step)
            after = plan.steps[step.after] if step.after else None
            reason = attempt(worker, step, after, progress.within)
            failure = None if reason is None else Failure(step, reason)
        if failure is not None:
            failures[step.key] = failure
        progress.end(step, failure)
    return list(failures.values())


def held_up(step: Step, failures: dict[str, Failure]) -> Failure | None:
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
        except Stopped:
            raise
        except OlivineError as error:
            reason = str(error)
        except Exception as error:
            # Whatever broke must not take the other cells with it; the trace is kept for who mends it.
            reason = f"{type(error).__name__}: {error}"
        else:
            (step.folder / ERROR).unlink(missing_ok=True)
            return None
        with suppress(OSError):  # a full disk has no room for this either
            write_text(step.folder / ERROR, f"try {number} of {TRIES}\n{reason}\n\n{traceback.format_exc()}")
        worker.release()
    return reason
