"""Finding images by the names that data and questions give them.

Opening is in `image_files`, colour conversion in `image_modes`, fitting to a tower in `image_fit`: their public names
are re-exported here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from olivine.data.image_files import decode_image, open_image, read_image_bytes, require_regular
from olivine.data.image_fit import ImageTransform, augmented
from olivine.data.image_modes import upright_rgb
from olivine.errors import DataError
from olivine.files import safe_join

__all__ = [
    "ImageFolder",
    "ImageSource",
    "ImageTransform",
    "augmented",
    "decode_image",
    "find_image",
    "image_source",
    "open_image",
    "read_image_bytes",
    "upright_rgb",
]

#: An image named .jpg in the JSON may be on disk as .png (Intel's loader tries both), or as a camera's .JPG.
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def find_image(root: Path, relative: str) -> Path:
    """Return the file of an image path, or the one with the same stem and another image suffix, in any common case.

    Raises:
        DataError: the path leaves `root` or is invalid, or there is no such file, or not a regular one.
    """
    path = safe_join(root, relative)
    quoted = relative if len(relative) <= 200 else relative[:200] + "…"
    try:
        if _is_file(path, quoted):
            return path
        for suffix in dict.fromkeys((path.suffix.lower(), *SUFFIXES)):
            if len(suffix) < 2:
                continue
            for spelled in dict.fromkeys((suffix, suffix.upper(), "." + suffix[1:].capitalize())):
                other = path.with_suffix(spelled)
                if _is_file(other, quoted):
                    return other
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"image {quoted!r}: the path cannot be looked up ({reason}).") from None
    raise DataError(f"image {quoted!r} not found under {root} (other suffixes tried too).")


def _is_file(path: Path, quoted: str) -> bool:
    """Return whether there is a regular file.

    Raises:
        DataError: there is something else.
        OSError, ValueError: it cannot be determined: the path is too long, a folder is inaccessible, or has a NUL.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    require_regular(status, repr(quoted))
    return True


class ImageSource(Protocol):
    """A source of images by the names that questions give them."""

    def open(self, name: str) -> Image.Image:
        """Return the image, RGB.

        Raises:
            DataError: it is missing or cannot be read.
        """


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Images that are files under a root."""

    root: Path

    def open(self, name: str) -> Image.Image:
        """Return the image, RGB; raises as `find_image` and `open_image`."""
        return open_image(find_image(self.root, name))


def image_source(source: "ImageSource | Path") -> ImageSource:
    """Return a folder as an `ImageSource`; an `ImageSource` unchanged."""
    return ImageFolder(source) if isinstance(source, Path) else source
