"""Bodies of requests, received within limits of size, time, and of what all of them hold together."""

import asyncio

from fastapi import Request

from olivine.serving.limits import Limits
from olivine.serving.problems import ApiError, invalid

#: Bytes of all bodies that are held at once, in units of the largest one.
_BODIES_HELD = 8


def require_json(request: Request) -> None:
    """Refuse other types: a browser sends them to any server for any site, without asking it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "unsupported_media_type", "expected Content-Type: application/json.")


class Bodies:
    """Receives bodies, and counts the bytes of those that are not yet released."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    def release(self, body: bytes) -> None:
        """Count a body's bytes no longer."""
        self._held -= len(body)

    async def receive(self, request: Request) -> bytes:
        """Return a body within the limits of size and time; `release` it.

        Raises:
            ApiError: it is too large (413) or too slow (408), the client went away (400, `cut_body`), or too many
                bodies are held (429).
        """
        most = self._limits.body_bytes
        too_large = ApiError(413, "body_too_large", f"the body has more than {most:,} bytes; send smaller images.")
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise invalid("the connection was closed before the body had arrived.", code="cut_body")
                    new = message.get("body", b"")
                    body += new
                    self._held += len(new)
                    if len(body) > most:
                        raise too_large
                    if self._held > _BODIES_HELD * most:
                        raise ApiError(429, "busy", "too many large requests at once; try again.", retry_after=1)
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            self._held -= len(body)
            message_text = f"the body did not arrive within {self._limits.body_seconds:g} seconds."
            raise ApiError(408, "body_timeout", message_text) from None
        except BaseException:
            self._held -= len(body)
            raise
