"""Who may use the server: a token, and the names by which it may be addressed."""

import hmac
from dataclasses import dataclass

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from olivine.serving.http_responses import error_response
from olivine.serving.page_files import is_page
from olivine.serving.problems import ApiError, quoted


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server.

    Attributes:
        token: what requests must bring as `Authorization: Bearer`; None for anybody.
        hosts: what their Host header must name; None for anything. A page of another site that a browser was made to
            find at this address has its own name there.
    """

    token: str | None = None
    hosts: frozenset[str] | None = None


class Guard:
    """Lets in who may use the server, before anything of a request is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http":
            try:
                _require_access(Request(scope), self._access)
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _require_access(request: Request, access: Access) -> None:
    if access.hosts is not None:
        host = request.headers.get("host", "").lower()
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if name not in access.hosts:
            raise ApiError(403, "host_not_allowed", f"this server is not {quoted(host)}; use its loopback address.")
    path = request.url.path
    if access.token is None or path == "/health" or is_page(path):
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), access.token.encode()):
        raise ApiError(401, "invalid_api_key", "wrong or missing token: send Authorization: Bearer TOKEN.")
