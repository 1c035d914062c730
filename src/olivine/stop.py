"""Signals turned into an orderly end: at once where nothing would be lost, at the next safe point where it would.

What is saved at that point is decided by whoever holds the signal back: `train.stage`, `evaluate.run`.
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

#: Ctrl-C, a scheduler's end, a closed terminal, a scheduler's warning ahead of its end; some systems lack some.
_NAMES = ("SIGINT", "SIGBREAK", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
#: Seconds in which a second Ctrl-C is the first one's echo: torchrun passes on what the terminal has sent already.
ECHO = 1.0
_RESUME = "Run the same command to resume."


class StopSignal:
    """Listens for the signals that mean "stop" while entered.

    A signal that was ignored before stays ignored: `nohup` has a run outlive its terminal. Outside the main thread,
    where Python allows no handlers, it never fires. A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        #: What the signal is called once one has come, empty before.
        self.name = ""
        self._came = 0.0
        self._held = 0
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return bool(self.name)

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None: a handler that Python did not install, and could not put back.
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
    def held(self) -> Iterator[None]:
        """Inside the block a signal only sets `requested`; whoever runs there saves and raises `Stopped`.

        Raises:
            Stopped: a signal came inside, and the block came to its end.
        """
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if not self._held:
            self.check()

    def check(self, saved: str = "") -> None:
        """Do nothing unless a signal has come.

        Args:
            saved: what is kept, for the message.

        Raises:
            Stopped: a signal has come.
        """
        if self.requested:
            raise Stopped(self.message(saved))

    def message(self, saved: str = "") -> str:
        """Return what to tell a user who stopped the run; `saved` says what is kept."""
        # Under torchrun the signal may have reached another process alone.
        return f"stopped by {self.name or 'a signal'}{'; ' + saved if saved else ''}. {_RESUME}"

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            self._came = now
            if not self._held:
                raise Stopped(self.message())
        elif number == signal.SIGINT and now - self._came > ECHO:
            # Nothing needs tidying: every file is written beside its place and renamed.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
