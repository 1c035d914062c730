"""Carry out a plan on a Ray cluster: steps are tasks with reserved CPUs and GPUs, results are in a shared folder.

Optional: `pip install 'olivine[ray]'`. Every machine of the cluster must see the study's directory and data at the
same paths.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from olivine.ablation.launch import TRIES, Failure, Launcher, Progress, attempt, launch_over
from olivine.ablation.plan import Plan, Step
from olivine.ablation.steps import Worker
from olivine.console import stderr_console
from olivine.errors import RequestError, Stopped
from olivine.process_setup import ignore_known_warnings


def make(jobs: int) -> Launcher:
    """Return the launcher that runs steps on a Ray cluster.

    Raises:
        RequestError: a number of jobs was given.
    """
    if jobs > 1:
        raise RequestError(
            "--jobs: Ray starts what the cluster has resources for; set the study's `resources` instead."
        )
    return launch_on_ray


def launch_on_ray(plan: Plan, _console: Console, progress: Progress) -> list[Failure]:
    """Carry out the remaining steps of a plan; a step starts once the steps it needs are done and resources are free.

    Joins the cluster named by RAY_ADDRESS, or starts one on this machine.

    Raises:
        RequestError: Ray is not installed.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False, address=os.environ.get("RAY_ADDRESS"))
    try:
        return launch_over(_RayPool(ray, plan), plan, progress)
    finally:
        if ours:
            ray.shutdown()


class _RayPool:
    """A pool that always accepts a step: Ray queues tasks until their resources are free."""

    def __init__(self, ray: Any, plan: Plan) -> None:
        requested = plan.study.recipe.resources
        self._ray, self._plan = ray, plan
        # Ray retries when a worker process dies (out of memory, a lost machine); `attempt` retries a step that raises.
        self._task = ray.remote(num_cpus=requested.cpus, num_gpus=requested.gpus, max_retries=TRIES - 1)(_attempt)
        #: The number of threads decides the last bits, so it depends on the study's resources, not on the machine.
        self._threads = max(1, round(requested.cpus))
        self._running: dict[Any, Step] = {}

    def begin(self, ready: Sequence[Step]) -> Step | None:
        step = ready[0]
        task = self._task.remote(step, self._plan.before(step), str(Path.cwd()), self._threads)
        self._running[task] = step
        return step

    def outcome(self) -> tuple[Step, str | None]:
        (over,), _ = self._ray.wait(list(self._running), num_returns=1)
        return self._running.pop(over), _outcome(self._ray, over)


def _attempt(step: Step, after: Step | None, folder: str, threads: int) -> str | None:
    """Run a step on the cluster; return why it failed, or None.

    `folder` is the directory in which the study was started; its paths may be relative to it.
    """
    os.chdir(folder)
    ignore_known_warnings()
    torch.set_num_threads(threads)
    worker = Worker(stderr_console(quiet=True))
    try:
        return attempt(worker, step, after, lambda _done, _total: None)
    except Stopped as stopped:
        return str(stopped)


def _outcome(ray: Any, reference: Any) -> str | None:
    try:
        reason: str | None = ray.get(reference)
        return reason
    except ray.exceptions.RayError as error:
        return f"the worker process died {TRIES} times ({str(error).strip().splitlines()[0]})"


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise RequestError("--launcher ray: Ray is not installed. Run: pip install 'olivine[ray]'") from None
    return ray
