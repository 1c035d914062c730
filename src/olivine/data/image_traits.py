"""Image traits that tools handle differently, from the header alone: docs/images.md says what each tool does."""

from pathlib import Path

from PIL import Image

from olivine.data.image_files import has_long_texts, open_header, read_image_bytes
from olivine.data.image_modes import is_deep_grey, is_transparent, orientation

TURNED = "turned by its EXIF orientation"
TRANSPARENT = "with transparency"
DEEP_GREY = "greyscale of more than 8 bits"
CMYK = "in CMYK"
ANIMATED = "animated or of several pages (the first is read)"
LONG_TEXT = "with a long text beside the image"
#: Every trait, in report order.
TRAITS = (TURNED, TRANSPARENT, DEEP_GREY, CMYK, ANIMATED, LONG_TEXT)


def image_traits(path: Path) -> set[str]:
    """Return which of `TRAITS` an image file has; no pixel is decoded.

    Whether an alpha channel has anything but opaque pixels is not checked.

    Raises:
        DataError: as `image_files.read_image_bytes` and `open_header`.
    """
    return content_traits(read_image_bytes(path), f"{path}")


def content_traits(content: bytes, name: str) -> set[str]:
    """Return the `image_traits` of a file in memory; `name` is for messages.

    Raises:
        DataError: as `image_files.open_header`.
    """
    with open_header(content, name) as image:
        found = {
            TURNED: orientation(image) != 1,
            TRANSPARENT: is_transparent(image),
            DEEP_GREY: is_deep_grey(image),
            CMYK: image.mode == "CMYK",
            ANIMATED: _has_more_frames(image),
            LONG_TEXT: has_long_texts(content),
        }
    return {trait for trait, there in found.items() if there}


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a second frame that cannot be read is never needed
        return True
