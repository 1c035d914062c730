"""Responses of JSON, and of errors."""

from typing import Any

from fastapi import Response

from olivine.serving import responses
from olivine.serving.problems import ApiError


def error_response(error: ApiError) -> Response:
    """Return an error as its status, headers and body."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # What is left of a body that was not read would be taken for the next request.
    if error.status in (408, 413, 415, 429):
        headers["Connection"] = "close"
    return Response(responses.encoded(error.body()), error.status, headers, "application/json")


def json_response(value: dict[str, Any], status: int = 200) -> Response:
    """Return an object as JSON."""
    return Response(responses.encoded(value), status, media_type="application/json")
