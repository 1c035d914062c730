"""How many processors this process may use.

Nothing about accelerators is here.
"""

import os


def cores() -> int:
    """Processors that the scheduler allows, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
