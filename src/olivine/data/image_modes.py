"""Colour conversion: any of Pillow's modes to upright RGB, as a viewer on a white page shows it.

Opening files is in `image_files`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from olivine.errors import DataError

#: Pixels converted at once if a conversion needs several copies: its memory is bounded by the image itself.
_BAND_PIXELS = 2**20
#: Possible bit depths of greyscale values: the smallest that holds the image's largest value is assumed.
_GREY_BITS = (8, 10, 12, 14, 16)
#: Modes that convert to RGB without a decision.
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_rgb(image: Image.Image, name: str = "in memory") -> Image.Image:
    """Return an image as RGB, turned as its EXIF orientation says; `name` is for messages.

    Transparent pixels (an alpha channel, a transparent colour or palette entry) are composited on white. Greyscale of
    more than 8 bits is scaled: integers from the 8, 10, 12, 14 or 16 bits that their largest value needs,
    floating-point numbers from 0 to 1 or as integers. Colour profiles are ignored.

    Raises:
        DataError: its values have no defined brightness (negative, above 16 bits, not a number), or its mode is
            unknown.
    """
    image.load()  # Pillow rotates a TIFF when it is loaded, and records so only then
    turn = _TURNS.get(orientation(image))
    rgb = _rgb(image, name)
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info.clear()  # else the next consumer would rotate it again
    return upright


def orientation(image: Image.Image) -> int:
    """Return EXIF's orientation; 1 (upright) if there is none or it cannot be read, which is no damage."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # it may raise anything
        return 1
    return value if value in _TURNS else 1


def is_transparent(image: Image.Image) -> bool:
    """Return whether an image may have transparent pixels: an alpha channel, a transparent colour or palette entry."""
    return image.has_transparency_data


def is_deep_grey(image: Image.Image) -> bool:
    """Return whether an image is greyscale of more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if is_deep_grey(image):
        return _in_bands(image, _grey_to_rgb(image, name))
    if is_transparent(image):
        return _in_bands(image, _on_white)
    if image.mode not in _PLAIN:
        raise DataError(f"image {name}: colour mode {image.mode} is unsupported. Convert it to RGB.")
    return image.convert("RGB")  # a copy, also of RGB: its metadata is dropped, and its source is closed


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image to RGB, one band of rows at a time."""
    width, height = image.size
    result = Image.new("RGB", image.size)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        result.paste(convert(band), (0, top))
    return result


def _on_white(band: Image.Image) -> Image.Image:
    if band.mode in ("La", "PA"):
        band = band.convert("LA" if band.mode == "La" else "RGBA")
    rgba = band.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _grey_to_rgb(image: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    # Band by band: Pillow's own method ignores numbers that are not finite.
    low, high = _extrema(image)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high >= 2 ** _GREY_BITS[-1]:
        raise DataError(
            f"image {name}: greyscale values from {low:g} to {high:g} have no defined brightness; "
            "expected 8 or 16 bits (0 to 65,535). Convert it."
        )
    if image.mode.startswith("F") and high <= 1:
        top = 1.0
    else:
        top = 2.0 ** next(bits for bits in _GREY_BITS if high <= 2**bits - 1) - 1
    transparent = image.info.get("transparency")

    def convert(band: Image.Image) -> Image.Image:
        values = np.asarray(band)
        grey = np.rint(values * (255 / top)).astype(np.uint8)
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")

    return convert


def _extrema(image: Image.Image) -> tuple[float, float]:
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    bands: list[NDArray[np.generic]] = []
    for top in range(0, height, rows):
        values = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        bands.append(np.array([values.min(), values.max()], np.float64))
    found = np.array(bands, np.float64)
    return float(found.min()), float(found.max())
