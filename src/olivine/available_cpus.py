"""The CPUs that this process may use, and settings for processes started on them.

Accelerators are in `accelerators`.
"""

import math
import os
from collections.abc import Iterator, MutableMapping
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

_PROC, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
#: Variables that numerical libraries read when they are loaded; any that is set is the user's own choice.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def available_cpus() -> int:
    """Return the number of CPUs that this process may use: those it may run on, within its container's quota.

    A quota of one and a half CPUs counts as two, as in other runtimes.
    """
    allowed, quota = allowed_cores(), cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def allowed_cores() -> int:
    """Return the number of CPUs that the scheduler allows (`taskset`, `--cpuset-cpus`), ignoring quotas."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13 on; PYTHON_CPU_COUNT counts there
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_quota(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> float | None:
    """Return the CPU time that the container's quota grants (`--cpus`), in CPUs; None without a quota.

    The smallest quota of a group and its parents applies; version 2 (`cpu.max`) and 1 (`cpu.cfs_quota_us`) are read.
    """
    found = [quota for folder in _groups(proc, cgroups) if (quota := _quota_in(folder)) is not None]
    return min(found, default=None)


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make numerical libraries start as many threads as the quota grants, unless the user has set a number.

    By default they count the CPUs that the scheduler allows; in a container with a quota, that many threads share few
    CPUs and are all throttled whenever the quota is used up. It must be called before torch is imported.
    """
    if available_cpus() < allowed_cores() and not any(environment.get(name) for name in _THREADS):
        environment["OMP_NUM_THREADS"] = str(available_cpus())


def end_with_parent() -> None:
    """Make this `multiprocessing` process end as soon as its parent does, for whatever reason.

    Without it, a killed command would leave its processes running alongside those of the next one.
    """
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, with their parents; inside a container often just the root."""
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = [cgroups / controllers, cgroups / "cpu"] if controllers else [cgroups]
        for root in roots:
            group = root / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _quota_in(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 and float(period) > 0 else None
    except (OSError, ValueError):
        return None  # no such file, or unexpected content: no quota is known
