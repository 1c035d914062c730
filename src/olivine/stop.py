"""Signals turned into a clean stop: at once if nothing would be lost, otherwise at the next safe point.

What is saved at that point is decided by the code that defers the signal: `training.stage`, `evaluation.run`.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from olivine.errors import Stopped

#: Ctrl-C, a scheduler's termination, a closed terminal, a scheduler's early warning; some systems lack some.
_NAMES = ("SIGINT", "SIGBREAK", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
#: Seconds within which a second Ctrl-C is an echo of the first: torchrun forwards what the terminal already sent.
ECHO = 1.0
_RESUME = "Run the same command to resume."


class StopSignal:
    """A context in which the signals that mean "stop" are handled.

    A signal that was ignored before stays ignored: with `nohup` a run outlives its terminal. Outside the main thread,
    where Python allows no handlers, it never fires. A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        #: The name of the signal received, empty before.
        self.name = ""
        self._received_at = 0.0
        self._deferrals = 0
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has been received."""
        return bool(self.name)

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None: a handler that Python did not install, and could not restore.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer signals: inside the block they only set `requested`, and the code there saves and raises `Stopped`.

        Raises:
            Stopped: a signal was received inside, and the block ran to its end.
        """
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
        if not self._deferrals:
            self.check()

    def check(self, saved: str = "") -> None:
        """Do nothing unless a signal has been received.

        Args:
            saved: what is saved, for the message.

        Raises:
            Stopped: a signal has been received.
        """
        if self.requested:
            raise Stopped(self.message(saved))

    def message(self, saved: str = "") -> str:
        """Return the message for a user who stopped the run; `saved` says what is saved."""
        # Under torchrun the signal may have reached only another process.
        return f"stopped by {self.name or 'a signal'}{'; ' + saved if saved else ''}. {_RESUME}"

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            self._received_at = now
            if not self._deferrals:
                raise Stopped(self.message())
        elif number == signal.SIGINT and now - self._received_at > ECHO:
            # Nothing needs cleaning up: every file is written under a temporary name and renamed.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
