"""Carry a plan out on a Ray cluster: steps are tasks with CPUs and GPUs to themselves, results lie in a shared folder.

Optional: `pip install 'olivine[ray]'`. Every machine of the cluster must see the study's directory and data under the
same paths.
"""

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from olivine.ablate.launch import TRIES, Failure, Progress, attempt, held_up
from olivine.ablate.plan import Plan, Step
from olivine.ablate.steps import Worker
from olivine.errors import RequestError, Stopped


def launch_on_ray(plan: Plan, console: Console, progress: Progress) -> list[Failure]:
    """Carry out what is left of a plan; a task begins when what it needs is done and its resources are free.

    Joins the cluster named by RAY_ADDRESS, or starts one on this machine.

    Raises:
        RequestError: Ray is not installed.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False, address=os.environ.get("RAY_ADDRESS"))
    try:
        return _carry_out(ray, plan, console, progress)
    finally:
        if ours:
            ray.shutdown()


def _carry_out(ray: Any, plan: Plan, console: Console, progress: Progress) -> list[Failure]:
    wanted = plan.study.recipe.resources
    # A worker process that dies (out of memory, a lost machine) is Ray's to retry; a step that raises is `attempt`'s.
    task = ray.remote(num_cpus=wanted.cpus, num_gpus=wanted.gpus, max_retries=TRIES - 1)(_attempt)
    waiting = {step.key: step for step in plan.left()}
    running: dict[Any, Step] = {}
    failures: dict[str, Failure] = {}
    while waiting or running:
        unfinished = waiting.keys() | {step.key for step in running.values()}
        for step in list(waiting.values()):
            failure = held_up(step, failures)
            after = plan.steps[step.after] if step.after else None
            if failure is not None:
                failures[step.key] = failure
                progress.end(step, failure)
            elif not unfinished & set(step.needs):
                progress.begin(step)
                running[task.remote(step, after, str(Path.cwd()))] = step
            else:
                continue
            del waiting[step.key]
        if not running:
            continue
        (ready,), _ = ray.wait(list(running), num_returns=1)
        step = running.pop(ready)
        reason = _outcome(ray, ready)
        failure = None if reason is None else Failure(step, reason)
        if failure is not None:
            failures[step.key] = failure
        console.print(f"{step.key}: {'failed' if failure else 'done'}", highlight=False)
        progress.end(step, failure)
    return list(failures.values())


def _attempt(step: Step, after: Step | None, folder: str) -> str | None:
    """Runs on the cluster: why a step failed, or None.

    `folder` is where the study was started: its paths may be relative to that.
    """
    os.chdir(folder)
    worker = Worker(Console(file=open(os.devnull, "w", encoding="utf-8")))  # noqa: PTH123, SIM115
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
