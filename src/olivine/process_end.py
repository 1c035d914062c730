"""How a process of Olivine's own ends: alone as any Python program, as one of several without Python's finalization."""

import atexit
import os
import sys
import threading
from typing import NoReturn

from olivine.streams import release


def end_process(code: int) -> NoReturn:
    """End this process with exit code `code`, after its threads, its exit functions and its output.

    One of several processes then ends at once. gloo's worker threads release the tensors of a collective some time
    after the main thread has its result, and outlive the process group for as long as a device mesh refers to it (the
    mesh of sharded parameters is in a cache of torch's). Releasing a tensor that Python has seen takes the lock of the
    interpreter; once finalization has begun, Python before 3.14 unwinds a thread that asks for it, through C++ code
    that does not allow that: "terminate called without an active exception", and exit code 134 for a run that had
    finished. A script that trains in several processes through the Python interface should end with it as well.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    # What the interpreter does before its finalization, and `multiprocessing` before it ends a process in this way.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    release(sys.stdout)
    release(sys.stderr)
    os._exit(code)
