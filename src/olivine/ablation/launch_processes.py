"""Carry a plan out in several processes of this machine, each with its share of the processors or a GPU of its own.

Which step may begin is `launch_over`'s to decide. Small models gain on a CPU too: threads of one step wait for each
other after every operation, steps in processes of their own never do.
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
    """Carry out what is left of a plan, `jobs` steps at a time.

    A process that dies (out of memory, say) is replaced and its step tried again.

    Raises:
        Stopped: a signal came; steps under way have saved what they had.
    """
    if not plan.left():
        return []
    # Bars of several processes would draw over each other.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    pool = _ProcessPool(plan, progress, jobs, console.width)
    with StopSignal():
        try:
            return launch_over(pool, plan, progress)
        finally:
            pool.end()


@dataclass(frozen=True, slots=True)
class _Message:
    """A line or more for the terminal."""

    text: str


@dataclass(frozen=True, slots=True)
class _Over:
    """A step is over: None, or why it failed; `stopped` if someone stopped it, who meant the study."""

    reason: str | None
    stopped: bool = False


class _ProcessPool:
    """Worker processes that keep the model they used last; one that holds a step's model is given that step."""

    def __init__(self, plan: Plan, progress: Progress, jobs: int, width: int) -> None:
        self._plan, self._progress = plan, progress
        # Threads decide the last bits: they hang on the jobs that were asked for, not on who runs what or what is left.
        threads = max(1, available_cpus() // jobs)
        self._workers = [_WorkerProcess(gpu, threads, width) for gpu in _gpus(jobs)[: len(plan.left())]]

    def begin(self, ready: Sequence[Step]) -> Step | None:
        idle = [worker for worker in self._workers if worker.step is None]
        if not idle:
            return None
        held = {worker.holds: worker for worker in idle}
        step = next((step for step in ready if step.after in held and step.after is not None), ready[0])
        worker = held.get(step.after, idle[0])
        worker.begin(step, self._plan.before(step))
        return step

    def outcome(self) -> tuple[Step, str | None]:
        while True:
            busy = [worker for worker in self._workers if worker.step is not None]
            heard = wait([worker.connection for worker in busy])
            for worker in busy:
                step = worker.step
                if step is None or worker.connection not in heard:
                    continue
                message = worker.receive(self._plan.before(step))
                if isinstance(message, _Message):
                    self._progress.log_line(step, message.text)
                elif message is not None:
                    worker.step = None
                    return step, message.reason

    def end(self) -> None:
        """Stop whatever is under way, which saves what it has, and see all processes off."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()


class _WorkerProcess:
    """One process as its parent sees it, and what it has been told to do."""

    def __init__(self, gpu: str | None, threads: int, width: int) -> None:
        self._given = (gpu, threads, width)
        self.step: Step | None = None
        #: The key of the stage whose model it has at hand.
        self.holds: str | None = None
        self._deaths = 0
        self._start()

    def _start(self) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, *self._given), daemon=False)
        self.process.start()
        theirs.close()  # what is left is the process's own end: its death is then heard

    def begin(self, step: Step, after: Step | None) -> None:
        self.step, self._deaths = step, 0
        self.holds = None if isinstance(step, StageStep | FeatureStep) else step.after
        self._send(step, after)

    def receive(self, after: Step | None) -> _Message | _Over | None:
        """What the process has to say; None if it died and begins anew.

        Raises:
            Stopped: someone stopped the process by itself.
        """
        assert self.step is not None, "an idle process says nothing"
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
        with suppress(ConnectionError):  # it is dead, as `hear` will find
            self.connection.send((step, after))


def _serve(connection: Connection, gpu: str | None, threads: int, width: int) -> None:
    """Runs in a worker process: steps in, what they say and how they end out."""
    end_with_parent()
    guard_stderr()
    ignore_known_warnings()
    for name in ("SIGINT", "SIGHUP"):  # the parent hears a terminal's signals too, and stops its processes in order
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
        with suppress(ConnectionError):  # a parent that is no more needs no telling
            connection.send(_Over(str(stopped), stopped=True))
    except (EOFError, ConnectionError):
        return


class _Sent(io.StringIO):
    """A console's file: what is printed goes to the parent."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def write(self, text: str) -> int:
        if text.strip():
            self._connection.send(_Message(text))
        return len(text)


def _gpus(jobs: int) -> list[str | None]:
    """Each process's GPU, as CUDA_VISIBLE_DEVICES names it; where there are fewer than processes, some share one."""
    count = torch.cuda.device_count()
    if count == 0:
        return [None] * jobs
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(number) for number in range(count))
    return [named.split(",")[number % count] for number in range(jobs)]
