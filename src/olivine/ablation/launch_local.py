"""Carry out a plan on this machine: in this process, or in several worker processes.

Worker processes are in `launch_processes`; `launch_over` decides which step may start.
"""

from collections.abc import Sequence
from functools import partial

from rich.console import Console

from olivine.ablation.launch import Failure, Launcher, Progress, attempt, launch_over
from olivine.ablation.launch_processes import launch_in_processes
from olivine.ablation.plan import Plan, Step
from olivine.ablation.steps import Worker


def make(jobs: int) -> Launcher:
    """Return the launcher for this many steps in parallel; 1 runs them in this process."""
    return launch_here if jobs == 1 else partial(launch_in_processes, jobs=jobs)


def launch_here(plan: Plan, console: Console, progress: Progress) -> list[Failure]:
    """Carry out the remaining steps of a plan, one after another, in this process.

    Raises:
        Stopped: a signal arrived; the running step has saved its state.
    """
    return launch_over(_Here(plan, console, progress), plan, progress)


class _Here:
    """A pool of this process alone; a started step is carried out when its outcome is requested."""

    def __init__(self, plan: Plan, console: Console, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        self._worker = Worker(console)
        self._begun: Step | None = None

    def begin(self, ready: Sequence[Step]) -> Step | None:
        if self._begun is not None:
            return None
        self._begun = ready[0]
        return self._begun

    def outcome(self) -> tuple[Step, str | None]:
        step, self._begun = self._begun, None
        assert step is not None, "only started steps have outcomes"
        return step, attempt(self._worker, step, self._plan.before(step), self._progress.within)
