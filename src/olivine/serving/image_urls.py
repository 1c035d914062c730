"""The images of a request: data URLs, and http(s) URLs where the server allows them; never a file.

Decoding them is in `served_model`.
"""

import base64
import binascii
import ipaddress
import re
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from olivine.serving.limits import Limits
from olivine.serving.problems import ApiError, invalid, quoted

if TYPE_CHECKING:
    import httpx2

_DATA = re.compile(r"data:image/[\w.+-]{1,40}(;[\w.+=-]{1,60}){0,4};base64,", re.ASCII | re.IGNORECASE)
_CODE = "invalid_image_url"


def image_content(url: str, limits: Limits, where: str) -> bytes:
    """Return the file behind an image's URL.

    Args:
        url: what the request holds.
        limits: whether and how much is fetched.
        where: the request's field, for messages.

    Raises:
        ApiError: it is no URL that is accepted, or cannot be fetched.
    """
    head = _DATA.match(url, 0, 400)
    if head is not None:
        try:
            return base64.b64decode(url[head.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"{where}: the data URL's base64 is damaged.", where, _CODE) from None
    if url[:8].lower().startswith(("http://", "https://")):
        if not limits.fetch:
            raise invalid(
                f"{where}: this server fetches no URLs; send the image as data:image/png;base64,...", where, _CODE
            )
        return _fetched(url, limits, where)
    raise invalid(
        f"{where}: expected data:image/...;base64,... but it begins with {quoted(url[:30])}. Files are not read.",
        where,
        _CODE,
    )


def _fetched(url: str, limits: Limits, where: str) -> bytes:
    import httpx2

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise invalid(f"{where}: not a valid URL.", where, _CODE) from None
    if not host or parts.username or parts.password:
        raise invalid(f"{where}: expected http(s)://host/path without user name or password.", where, _CODE)
    address = _public_address(host, port or (443 if parts.scheme.lower() == "https" else 80), where)
    # By its address: looked up a second time, the name might be another machine's.
    target = httpx2.URL(url).copy_with(host=address)
    headers = {"Host": parts.netloc, "Accept": "image/*", "Accept-Encoding": "identity"}
    deadline = time.monotonic() + limits.fetch_seconds
    try:
        with (
            httpx2.Client(timeout=limits.fetch_seconds, follow_redirects=False, trust_env=False) as client,
            client.stream("GET", target, headers=headers, extensions={"sni_hostname": host}) as response,
        ):
            if response.status_code != 200:
                raise invalid(f"{where}: its host answered {response.status_code}, expected 200.", where, _CODE)
            return _read(response, limits, deadline, where)
    except httpx2.TimeoutException:
        raise _slow(limits, where) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise invalid(f"{where}: cannot be fetched ({type(error).__name__}).", where, _CODE) from None


def _read(response: "httpx2.Response", limits: Limits, deadline: float, where: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_raw(65536):
        content += chunk
        if len(content) > limits.fetch_bytes:
            message = f"{where}: more than {limits.fetch_bytes:,} bytes. Scale the image down."
            raise ApiError(413, "image_file_too_large", message, param=where)
        if time.monotonic() > deadline:
            raise _slow(limits, where)
    return bytes(content)


def _slow(limits: Limits, where: str) -> ApiError:
    return ApiError(408, "fetch_timeout", f"{where}: not fetched within {limits.fetch_seconds:g} seconds.", param=where)


def _public_address(host: str, port: int, where: str) -> str:
    """Return an address of a host, all of whose addresses are public.

    Raises:
        ApiError: it is unknown, or in a private network.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise invalid(f"{where}: unknown host.", where, _CODE) from None
    for address in found:
        parsed = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(parsed, "ipv4_mapped", None)
        if not (mapped or parsed).is_global or parsed.is_multicast:
            raise invalid(f"{where}: its host is not on the public internet.", where, _CODE)
    if not found:
        raise invalid(f"{where}: unknown host.", where, _CODE)
    return sorted(found)[0]
