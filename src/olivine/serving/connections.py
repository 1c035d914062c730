"""Connections that cannot be held for nothing: requests that never end, and answers that nobody reads.

HTTP itself is uvicorn's.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from olivine.serving.limits import Limits


class BoundedProtocol(H11Protocol):
    """A connection that is closed if its peer sends or reads nothing for too long."""

    limits = Limits()
    _arriving: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time in which the first request must have arrived."""
        super().connection_made(transport)
        self._arriving = self.loop.call_later(self.limits.body_seconds, self._close_without_request)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of an incomplete head do not extend its time."""
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Start the time of the next request."""
        super().on_response_complete()
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all times."""
        for timer in (self._arriving, self._stalled):
            if timer is not None:
                timer.cancel()
        self._arriving = self._stalled = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time in which the client must read."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Forget it: the client reads."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _watch_head(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None
        elif not answering and self._arriving is None and not self.transport.is_closing():
            self._arriving = self.loop.call_later(self.limits.body_seconds, self._close_without_request)

    def _close_without_request(self) -> None:
        self._arriving = None
        self.transport.abort()


def protocol_class(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's protocol with a server's limits."""
    return type("Protocol", (BoundedProtocol,), {"limits": limits})
