"""The processors that this process may use, and processes that are started on them.

Nothing about accelerators is here.
"""

import math
import os
from collections.abc import Iterator, MutableMapping
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

_PROC, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
#: What numerical libraries read when they are loaded; any of them that is set is the user's own choice.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def available_cpus() -> int:
    """Return the processors that this process may use: those it is allowed to run on, within its container's quota.

    A quota of one and a half processors counts as two, as other run-times round it.
    """
    allowed, quota = allowed_cores(), cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def allowed_cores() -> int:
    """Return the processors that the scheduler allows (`taskset`, `--cpuset-cpus`), quota apart."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13 on; PYTHON_CPU_COUNT counts there
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_quota(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> float | None:
    """Return the processors' worth of time that the container's quota grants (`--cpus`), None without a quota.

    Of a group and those above it the smallest holds; version 2 (`cpu.max`) and 1 (`cpu.cfs_quota_us`) are read.
    """
    found = [quota for folder in _groups(proc, cgroups) if (quota := _quota_in(folder)) is not None]
    return min(found, default=None)


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have numerical libraries start as many threads as the quota grants, if the user has said nothing.

    They count the processors that the scheduler allows; in a container with a quota, those many threads take turns on
    few and are stopped together whenever the quota is used up. It must be called before torch is imported.
    """
    if available_cpus() < allowed_cores() and not any(environment.get(name) for name in _THREADS):
        environment["OMP_NUM_THREADS"] = str(available_cpus())


def end_with_parent() -> None:
    """Have this process of `multiprocessing` end as soon as the one that started it does, however that ends.

    Without it, a command that was killed would leave its processes at work, beside those of the next one.
    """
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, with those above them; inside a container often just the root."""
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
        return None  # no such file, or one that says something else: no quota is known
