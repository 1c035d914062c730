"""The limits of a server, each with the status code of a request that exceeds it.

They are checked where the resource is used: `app`, `image_urls`, `worker`, `connections`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, one connection and the waiting line may take.

    Attributes:
        body_bytes: a request's body (413).
        image_pixels: an image's width times height, checked before any pixel is decoded (422).
        images: images of one conversation (422).
        seconds: from a request's arrival to its last token (504).
        body_seconds: for a body to arrive (408); a connection that sends no complete request is closed after it, too.
        stalled_seconds: a client that reads nothing for so long is disconnected.
        queue: requests that wait for a place in the batch (429).
        new_tokens: the longest answer that may be asked for (400), and the default.
        choices: the largest `n` (400).
        cache_bytes: fitted images, image features and prompt prefixes kept for later requests, of each model.
        fetch: whether images may be given as http(s) URLs (400 otherwise).
        fetch_bytes: a fetched image's file (413).
        fetch_seconds: for fetching one (408).
    """

    body_bytes: int = 32 * 2**20
    image_pixels: int = 40_000_000
    images: int = 16
    seconds: float = 120.0
    body_seconds: float = 30.0
    stalled_seconds: float = 30.0
    queue: int = 256
    new_tokens: int = 512
    choices: int = 8
    cache_bytes: int = 256 * 2**20
    fetch: bool = False
    fetch_bytes: int = 20 * 2**20
    fetch_seconds: float = 10.0
