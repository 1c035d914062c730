"""The page's files, which load nothing from anywhere else."""

from importlib.resources import files

from fastapi import Response

_FILES = {"": "index.html", "page.css": "page.css", "page.js": "page.js"}
_MEDIA = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
#: The page loads nothing from anywhere else, and nothing that it shows can run.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def is_page(path: str) -> bool:
    """Return whether a request's path is the page or one of its files."""
    return path.removeprefix("/") in _FILES


def page_response(path: str) -> Response:
    """Return the file at a path for which `is_page` holds."""
    name = _FILES[path.removeprefix("/")]
    content = (files("olivine.serving") / "page" / name).read_bytes()
    return Response(content, media_type=_MEDIA[name.rpartition(".")[2]], headers=_HEADERS)
