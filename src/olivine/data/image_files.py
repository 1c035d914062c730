"""Image files to upright RGB: the one function that opens images, for training, evaluation, explanation and serving.

Colour conversion (transparency, 16 bits, CMYK) is in `image_modes`; fitting to a tower's input in `image_fit`.
"""

import io
import os
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageFile, UnidentifiedImageError

from olivine.data.image_modes import upright_rgb
from olivine.errors import DataError

#: Pillow's names of the supported formats. Others start programs (EPS: Ghostscript) or are rarely tested.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP or TIFF"
#: Larger images are refused before any pixel is decoded: a small file can unpack to gigabytes.
MAX_PIXELS = 100_000_000
#: The longest side of a JPEG. Resizing takes memory in proportion to the side, not the area.
MAX_SIDE = 65_535
#: Four bytes for each of `MAX_PIXELS`: no image within the limits needs a larger file.
MAX_FILE_BYTES = 4 * MAX_PIXELS
#: PNG text chunks of more bytes than this are ignored (Pillow would refuse the image).
_MAX_TEXT_BYTES = 1_000_000

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Other files that go by the name of an image, by their first bytes.
_FOREIGN = (
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\0\x0cjP", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\3\4", "ZIP"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for"),
)
_FILE_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)

_T = TypeVar("_T")


def open_image(path: Path) -> Image.Image:
    """Read a whole image file as upright RGB.

    Raises:
        DataError: as `read_image_bytes` and `decode_image`.
    """
    return decode_image(read_image_bytes(path), f"{path}")


def decode_image(content: bytes, name: str) -> Image.Image:
    """Decode an image file in memory as upright RGB; `name` is for messages.

    Of an animation the first frame; EXIF orientation applied; the rest as in `image_modes.upright_rgb`.

    Raises:
        DataError: it is truncated, in an unsupported format, or larger than `MAX_PIXELS` or `MAX_SIDE`.
    """
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated image must be refused, not filled in with grey"
    return _whatever_is_warned_of(lambda: _decode(content, name))


def _decode(content: bytes, name: str) -> Image.Image:
    try:
        with _open_header(content, name) as image:
            return upright_rgb(image, name)
    except (DataError, Warning):
        raise
    except MemoryError:
        raise DataError(f"image {name}: not enough memory to decode it.") from None
    except Exception as error:  # Pillow's readers may raise anything on a damaged file
        raise _damaged(name, error) from None


def open_header(content: bytes, name: str) -> Image.Image:
    """Return Pillow's image of a file in memory with its size and mode, before any pixel is decoded.

    Raises:
        DataError: as `decode_image`.
    """
    return _whatever_is_warned_of(lambda: _open_header(content, name))


def _whatever_is_warned_of(read: Callable[[], _T]) -> _T:
    """Return what `read` does, also where the caller has warnings raised: what an image is does not depend on that.

    Without that, nothing is filtered: filters are the whole process's, and images are opened in threads.
    """
    try:
        return read()
    except Warning:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()


def _open_header(content: bytes, name: str) -> Image.Image:
    _require_known_format(content, name)
    try:
        image = Image.open(io.BytesIO(_without_long_texts(content)), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _too_large(name, "far too many pixels according to its header") from None
    except UnidentifiedImageError:
        raise DataError(f"image {name}: its header cannot be read, the file is truncated or damaged.") from None
    except Warning:
        raise
    except Exception as error:
        raise _damaged(name, error) from None
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise _too_large(name, f"{width}x{height} pixels")
    return image


def read_image_bytes(path: Path) -> bytes:
    """Read the content of an image file: only regular files, and no more than `MAX_FILE_BYTES`.

    Raises:
        DataError: it is missing, a pipe or device, empty, too large, or does not start like an image.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(handle)
            require_regular(status, f"{path}")
        except DataError:
            os.close(handle)  # a folder's handle cannot become a file object
            raise
        with os.fdopen(handle, "rb") as file:
            if status.st_size > MAX_FILE_BYTES:
                raise DataError(
                    f"image {path}: {status.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are accepted. Scale it down."
                )
            start = file.read(64)
            _require_known_format(start, f"{path}")
            return start + file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        raise DataError(f"image {path}: file not found.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"image {path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def require_regular(status: os.stat_result, name: str) -> None:
    """Refuse anything but a regular file: reading a pipe blocks forever, reading a device never ends.

    Raises:
        DataError: it is something else; the message says what.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _FILE_KINDS if is_kind(status.st_mode)), "not a regular file")
        raise DataError(f"image {name}: {kind}; expected an image file.")


def _require_known_format(content: bytes, name: str) -> None:
    if content.startswith((*_SIGNATURES, *_TIFF_SIGNATURES)) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP"):
        return
    if not content:
        raise DataError(f"image {name}: empty, 0 bytes. Fetch it again.")
    found = _foreign_format(content)
    advice = f"expected {_FORMAT_NAMES}. Convert it, or fetch it again."
    if found is None:
        raise DataError(f"image {name}: not an image in any format known here; {advice}")
    raise DataError(f"image {name}: holds {found}; {advice}")


def _foreign_format(content: bytes) -> str | None:
    for signature, kind in _FOREIGN:
        if content.startswith(signature):
            return kind
    if content[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}.get(content[8:12], "a video")
    text = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (a failed download?)"
    if text.startswith((b"<svg", b"<?xml")):
        return "SVG or other XML"
    return "nothing but zeros" if not any(content[:64]) else None


def has_long_texts(content: bytes) -> bool:
    """Return whether a PNG has text or a colour profile that is too long for Pillow, and so ignored here."""
    return len(_without_long_texts(content)) < len(content)


def _without_long_texts(content: bytes) -> bytes:
    """Return a PNG without overlong text and colour profiles, which are not part of the image."""
    if not content.startswith(b"\x89PNG"):
        return content
    kept, start, total = [content[:8]], 8, 0
    for kind, end in _png_chunks(content):
        size = _text_size(kind, content[start + 8 : end - 4])
        total += size
        if size <= _MAX_TEXT_BYTES and total <= 8 * _MAX_TEXT_BYTES:
            kept.append(content[start:end])
        start = end
    if start == 8 or sum(map(len, kept)) == start:
        return content
    return b"".join([*kept, content[start:]])


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield (type, end) of each complete chunk of a PNG; Pillow reports what is wrong with the rest."""
    start = 8
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content):
            return
        yield content[start + 4 : start + 8], end
        start = end


def _text_size(kind: bytes, data: bytes) -> int:
    """Return the unpacked bytes of a text chunk, counted up to `_MAX_TEXT_BYTES` + 1; 0 for other chunks."""
    if kind == b"tEXt" or (kind == b"iTXt" and data.partition(b"\0")[2][:1] == b"\0"):
        return len(data)
    if kind not in (b"zTXt", b"iTXt", b"iCCP"):
        return 0
    rest = data.partition(b"\0")[2]
    packed = rest[1:] if kind != b"iTXt" else rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_TEXT_BYTES + 1))
    except zlib.error:
        return _MAX_TEXT_BYTES + 1  # cannot be read: no more part of the image than one that is too long


def _too_large(name: str, found: str) -> DataError:
    limits = f"at most {MAX_PIXELS:,} in total and {MAX_SIDE:,} per side are accepted"
    return DataError(f"image {name}: {found}; {limits}. Scale it down or cut it up.")


def _damaged(name: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"image {name}: cannot be read, the file is truncated or damaged ({reason[:200]}).")
