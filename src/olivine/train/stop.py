"""SIGTERM turned into an orderly end: at once where nothing would be lost, at the next safe point where it would.

What is saved at that point is decided in `stage`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from olivine.errors import Stopped


class StopSignal:
    """Listens for SIGTERM while entered; outside the main thread, where Python allows no handlers, it never fires."""

    def __init__(self) -> None:
        self.requested = False
        self._held = False
        self._before: Any = None

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block a signal only sets `requested`; whoever runs there saves and raises `Stopped`."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.requested:
            raise Stopped("stopped by SIGTERM between two stages; run the same command to go on")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self._held:
            raise Stopped("stopped by SIGTERM; run the same command to go on")
