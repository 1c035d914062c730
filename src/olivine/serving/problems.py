"""What a client is told when a request is refused or fails: OpenAI's error object, one status code per cause.

Errors of the command line itself are in `olivine.errors`.
"""

from typing import Any

from olivine.errors import OlivineError
from olivine.printable import printable

#: A message quotes at most this many characters of what a client sent.
_QUOTED = 200


class ApiError(OlivineError):
    """A request that is refused or could not be finished.

    Attributes:
        status: the HTTP status code.
        code: the machine-readable cause.
        param: the request's field that is wrong, as a dotted path; None if it is none.
        retry_after: seconds after which the same request may succeed; None if it never will.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI's API words it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        if self.status == 401:
            kind = "authentication_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return the error for a field with a wrong value: status 400."""
    return ApiError(400, code, message, param=param)


def quoted(value: object) -> str:
    """Return a client's value for a message: shortened, control characters escaped."""
    text = printable(repr(value))
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "…"
