"""A server from its options: models loaded, token required, socket bound, signals handled.

The routes are in `app`.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from olivine.errors import RequestError
from olivine.serving.access import Access
from olivine.serving.app import make_app
from olivine.serving.connections import protocol_class
from olivine.serving.limits import Limits
from olivine.serving.served_model import ServedModel

#: The environment variable that holds the token.
TOKEN_VARIABLE = "OLIVINE_API_KEY"  # noqa: S105  # a name
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: Bytes of a request's head.
_HEAD_BYTES = 32 * 1024


def access_for(host: str) -> Access:
    """Return who may use a server that listens on `host`: anybody on this machine, or who has the token.

    Raises:
        RequestError: another host than loopback without a token, or a token that no header can hold.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and not (token.isascii() and token.isprintable() and token == token.strip()):
        raise RequestError(f"{TOKEN_VARIABLE}: expected printable ASCII characters without spaces around them.")
    local = host in _LOOPBACK
    if not local and token is None:
        raise RequestError(
            f"--host {host}: other machines could use the server. Set the environment variable {TOKEN_VARIABLE} to a "
            "token that they must send, or listen on 127.0.0.1."
        )
    return Access(token, _LOOPBACK_HOSTS if local else None)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; before models are loaded, so that a taken port is known at once.

    Raises:
        RequestError: the address cannot be used.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, number)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(1024)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"--host {host} --port {port}: cannot listen there ({reason}). Choose another.") from None
    return bound


class Server(uvicorn.Server):
    """uvicorn's server, which finishes what runs after SIGTERM or Ctrl-C and returns; a second signal ends it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals inside the block, and do not raise them again behind it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before: dict[int, Any] = {number: signal.signal(number, self._stop) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: Any) -> None:
        if self.should_exit:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.should_exit = True


def make_server(models: Sequence[ServedModel], limits: Limits, access: Access) -> Server:
    """Return a server that is run with `run(sockets=[...])`."""
    config = uvicorn.Config(
        make_app(models, limits, access),
        http=protocol_class(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_keep_alive=int(max(1, limits.body_seconds)),
        timeout_graceful_shutdown=int(limits.seconds) + 10,
    )
    return Server(config)
