"""The processors that this process may use, and processes that are started on them.

Nothing about accelerators is here.
"""

import os
from multiprocessing import parent_process
from threading import Thread


def cores() -> int:
    """Processors that the scheduler allows, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
