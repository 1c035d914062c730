"""Where an OpenAI-compatible chat endpoint is, its key, and the HTTP client for it.

What is sent there is in `chat_endpoint`.
"""

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from olivine.errors import RequestError

if TYPE_CHECKING:
    import httpx2


def chat_address(url: str, role: str, key_variable: str) -> str:
    """Return the address of the chat completions under `url`, with its query.

    Args:
        url: `http(s)://HOST/v1` or similar; `/chat/completions` is added if it is missing.
        role: what messages call the endpoint.
        key_variable: the environment variable that messages name as the key's place.

    Raises:
        RequestError: not an http or https address, or one with a user name or password.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise RequestError(f"{role} url: not an address. Expected http://HOST/v1 or https://HOST/v1.") from None
    if parts.username or parts.password:
        raise RequestError(
            f"{role} url at {parts.hostname}: a user name or password does not belong there. Put the key into the "
            f"environment variable {key_variable}."
        )
    if not valid:
        raise RequestError(f"{role} url {url!r}: expected http://HOST/v1 or https://HOST/v1.")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    return parts._replace(path=path, fragment="").geturl()


def key_from(variable: str) -> str:
    """Return the API key in an environment variable; empty if it is unset.

    Raises:
        RequestError: it is not printable ASCII.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        # Checked here, because the HTTP library would show the key in its error message.
        raise RequestError(f"environment variable {variable}: expected a key in printable ASCII. Set it again.")
    return key


def open_client(role: str, timeout: float, connections: int) -> "httpx2.AsyncClient":
    """Return a client that follows no redirect and takes proxies from the environment.

    Raises:
        RequestError: a proxy from the environment cannot be used.
    """
    import httpx2  # here, since importing it takes longer than the modules that import this one

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=connections)
    try:
        return httpx2.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)
    except (httpx2.InvalidURL, ValueError, ImportError) as error:
        # The address itself is not repeated: it may hold a password.
        raise RequestError(
            f"{role}: a proxy in the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) cannot be used "
            f"({type(error).__name__}). Expected http://HOST:PORT; unset it, or name the endpoint's host in NO_PROXY."
        ) from None
