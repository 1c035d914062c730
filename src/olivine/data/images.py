"""Where images are found by the names that data and questions give them.

Opening is in `image_files`, what colours mean in `image_modes`, fitting to a tower in `image_fit`: their public names
are here too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from olivine.data.image_files import decode_image, open_image, read_image_bytes, require_regular
from olivine.data.image_fit import ImageTransform, moved
from olivine.data.image_modes import upright_rgb
from olivine.errors import DataError
from olivine.files import safe_join

__all__ = [
    "ImageFolder",
    "ImageSource",
    "ImageTransform",
    "decode_image",
    "find_image",
    "image_source",
    "moved",
    "open_image",
    "read_image_bytes",
    "upright_rgb",
]

#: An image named .jpg in the JSON may lie on disk as .png (Intel's loader tries both), or as .JPG of a camera.
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def find_image(root: Path, relative: str) -> Path:
    """Return the file of an image path, or the one with the same stem and another image suffix, in small or capitals.

    Raises:
        DataError: the path leaves `root`, is no possible path, names something that is no regular file, or nothing.
    """
    path = safe_join(root, relative)
    shown = relative if len(relative) <= 200 else relative[:200] + "…"
    try:
        if _is_file(path, shown):
            return path
        for suffix in dict.fromkeys((path.suffix.lower(), *SUFFIXES)):
            if len(suffix) < 2:
                continue
            for spelled in dict.fromkeys((suffix, suffix.upper(), "." + suffix[1:].capitalize())):
                other = path.with_suffix(spelled)
                if _is_file(other, shown):
                    return other
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"image {shown!r}: no file can be looked for under that path ({reason}).") from None
    raise DataError(f"image {shown!r} not found under {root} (other suffixes tried too).")


def _is_file(path: Path, shown: str) -> bool:
    """Whether there is a regular file.

    Raises:
        DataError: there is something else.
        OSError, ValueError: it cannot be known: a path that is too long, a folder that is closed, a NUL in the path.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    require_regular(status, repr(shown))
    return True


class ImageSource(Protocol):
    """Where images are found by the names that questions give them."""

    def open(self, name: str) -> Image.Image:
        """Return the image, RGB.

        Raises:
            DataError: it is not there, or cannot be read.
        """


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Images that are files under a root."""

    root: Path

    def open(self, name: str) -> Image.Image:
        """Return the image, RGB; raises as `find_image` and `open_image`."""
        return open_image(find_image(self.root, name))


def image_source(position: "ImageSource | Path") -> ImageSource:
    """Return a folder as `ImageSource`; what is that already, as it is."""
    return ImageFolder(position) if isinstance(position, Path) else position
