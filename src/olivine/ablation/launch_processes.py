"""Carry out a plan in several processes on this machine, each with its own GPU or its share of the CPU cores.

`launch_over` decides which step may start. Small models gain on a CPU too: the threads of one step wait for each other
after every operation, while steps in separate processes never do.
"""

import io
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import torch
from rich.console import Console

from olivine.ablation.launch import TRIES, Failure, Progress, attempt, launch_over
from olivine.ablation.plan import FeatureStep, Plan, StageStep, Step
from olivine.ablation.steps import Worker
from olivine.available_cpus import available_cpus, end_with_parent
from olivine.console import PlainConsole, diagnostics_on
from olivine.errors import Stopped
from olivine.process_setup import ignore_known_warnings
from olivine.stop import StopSignal
from olivine.streams import guard_stderr

_SPAWN = get_context("spawn")


def launch_in_processes(plan: Plan, console: Console, progress: Progress, jobs: int) -> list[Failure]:
    """Carry out the remaining steps of a plan, `jobs` in parallel.

    A process that dies (out of memory, for example) is replaced and its step retried.

    Raises:
        Stopped: a signal arrived; the running steps have saved their state.
    """
    if not plan.left():
        return []
    # Progress bars of several processes would overwrite each other.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    pool = _ProcessPool(plan, progress, jobs, console.width)
    with StopSignal():
        try:
            return launch_over(pool, plan, progress)
        finally:
            pool.end()


@dataclass(frozen=True, slots=True)
class _Message:
    """One or more lines for the terminal."""

    text: str


@dataclass(frozen=True, slots=True)
class _Over:
    """The end of a step: the reason if it failed, else None; `stopped` if a signal stopped it, and so the study."""

    reason: str | None
    stopped: bool = False


class _ProcessPool:
    """Worker processes that keep the model they used last; a step goes to one that already has its model loaded."""

    def __init__(self, plan: Plan, progress: Progress, jobs: int, width: int) -> None:
        self._plan, self._progress = plan, progress
        # The number of threads decides the last bits, so it depends on `jobs` alone, not on which steps remain.
        threads = max(1, available_cpus() // jobs)
        self._workers = [_WorkerProcess(gpu, threads, width) for gpu in _gpus(jobs)[: len(plan.left())]]

    def begin(self, ready: Sequence[Step]) -> Step | None:
        idle = [worker for worker in self._workers if worker.step is None]
        if not idle:
            return None
        by_model = {worker.loaded: worker for worker in idle}
        step = next((step for step in ready if step.after in by_model and step.after is not None), ready[0])
        worker = by_model.get(step.after, idle[0])
        worker.begin(step, self._plan.before(step))
        return step

    def outcome(self) -> tuple[Step, str | None]:
        while True:
            busy = [worker for worker in self._workers if worker.step is not None]
            readable = wait([worker.connection for worker in busy])
            for worker in busy:
                step = worker.step
                if step is None or worker.connection not in readable:
                    continue
                message = worker.receive(self._plan.before(step))
                if isinstance(message, _Message):
                    self._progress.log_line(step, message.text)
                elif message is not None:
                    worker.step = None
                    return step, message.reason

    def end(self) -> None:
        """Stop the running steps, which save their state, and wait until all processes have ended."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()


class _WorkerProcess:
    """One worker process as its parent sees it, and the step it was given."""

    def __init__(self, gpu: str | None, threads: int, width: int) -> None:
        self._given = (gpu, threads, width)
        self.step: Step | None = None
        #: The key of the stage whose model it has loaded.
        self.loaded: str | None = None
        self._deaths = 0
        self._start()

    def _start(self) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, *self._given), daemon=False)
        self.process.start()
        theirs.close()  # with only the child's end open, its death closes the connection

    def begin(self, step: Step, after: Step | None) -> None:
        self.step, self._deaths = step, 0
        self.loaded = None if isinstance(step, StageStep | FeatureStep) else step.after
        self._send(step, after)

    def receive(self, after: Step | None) -> _Message | _Over | None:
        """Return the process's next message; None if it died and was restarted.

        Raises:
            Stopped: the process alone was stopped by a signal.
        """
        assert self.step is not None, "an idle process sends no message"
        try:
            message: _Message | _Over = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            self._deaths += 1
            code = self.process.exitcode
            self._start()
            if self._deaths == TRIES:
                return _Over(f"the worker process died {TRIES} times (exit code {code})")
            self._send(self.step, after)
            return None
        if isinstance(message, _Over) and message.stopped:
            raise Stopped(message.reason or "stopped; run the same command to resume")
        return message

    def _send(self, step: Step, after: Step | None) -> None:
        with suppress(ConnectionError):  # the process is dead, as `receive` will notice
            self.connection.send((step, after))


def _serve(connection: Connection, gpu: str | None, threads: int, width: int) -> None:
    """Run in a worker process: receive steps; send their output and outcomes."""
    end_with_parent()
    guard_stderr()
    ignore_known_warnings()
    for name in ("SIGINT", "SIGHUP"):  # the parent receives a terminal's signals too, and stops its workers in order
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    console = PlainConsole(file=_Sent(connection), width=width, soft_wrap=True)
    worker = Worker(console)
    try:
        with StopSignal(), diagnostics_on(console):
            while True:
                step, after = connection.recv()
                connection.send(_Over(attempt(worker, step, after, lambda _done, _total: None)))
    except Stopped as stopped:
        with suppress(ConnectionError):  # the parent may already have ended
            connection.send(_Over(str(stopped), stopped=True))
    except (EOFError, ConnectionError):
        return


class _Sent(io.StringIO):
    """A console's output file that sends everything to the parent."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def write(self, text: str) -> int:
        if text.strip():
            self._connection.send(_Message(text))
        return len(text)


def _gpus(jobs: int) -> list[str | None]:
    """Return each process's GPU, as in CUDA_VISIBLE_DEVICES; with fewer GPUs than processes, some share one."""
    count = torch.cuda.device_count()
    if count == 0:
        return [None] * jobs
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(number) for number in range(count))
    return [named.split(",")[number % count] for number in range(jobs)]
