"""Pictures: opened safely, fitted to the tower's square, normalised, and (in training) slightly moved.

Equal to what the saved `transformers` image processor does, but for `letterbox`, whose edge pixels differ.
"""

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from olivine.errors import DataError
from olivine.files import inside
from olivine.recipe import AugmentRecipe, ImageFit

#: Pictures above this many pixels are refused: a small file can unpack to gigabytes.
MAX_PIXELS = 100_000_000
#: A picture named .jpg in the JSON may lie on disk as .png (Intel's loader tries both).
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")


def find_image(root: Path, relative: str) -> Path:
    """The file of an image path, or the one with the same stem and another image suffix.

    Raises:
        DataError: the path leaves `root`, or there is no such file.
    """
    path = inside(root, relative)
    if path.is_file():
        return path
    for suffix in SUFFIXES:
        other = path.with_suffix(suffix)
        if other.is_file():
            return other
    raise DataError(f"image {relative!r} not found under {root} (other suffixes tried too).")


def open_image(path: Path) -> Image.Image:
    """Read a picture file whole, as RGB.

    Raises:
        DataError: it is truncated, not a picture, or larger than `MAX_PIXELS`.
    """
    return _read(path, f"{path}")


def decode_image(content: bytes, name: str) -> Image.Image:
    """Read a picture that is in memory whole, as RGB; `name` is for messages.

    Raises:
        DataError: as `open_image`.
    """
    return _read(io.BytesIO(content), name)


class Pictures(Protocol):
    """Where pictures are found by the names that questions give them."""

    def open(self, name: str) -> Image.Image:
        """The picture, RGB.

        Raises:
            DataError: it is not there, or cannot be read.
        """


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Pictures that are files under a root."""

    root: Path

    def open(self, name: str) -> Image.Image:
        """The picture, RGB; raises as `find_image` and `open_image`."""
        return open_image(find_image(self.root, name))


def pictures_in(place: "Pictures | Path") -> Pictures:
    """A folder as `Pictures`; what is that already, as it is."""
    return PictureFolder(place) if isinstance(place, Path) else place


def _read(source: Path | IO[bytes], name: str) -> Image.Image:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated picture must be refused, not filled with grey"
    try:
        with warnings.catch_warnings():
            # The size is checked below, before any pixel is unpacked.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise DataError(f"image {name}: {width}x{height} pixels; at most {MAX_PIXELS:,} are accepted.")
                return image.convert("RGB")
    except UnidentifiedImageError:
        raise DataError(f"image {name}: not a picture in any format known here.") from None
    except FileNotFoundError:
        raise DataError(f"image {name}: file not found.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"image {name}: cannot be read, the file is truncated or damaged ({error}).") from None


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """From a picture to the tower's input.

    Attributes:
        size: side of the square, in pixels.
        fit: "pad" to a square with the mean colour, then resize (LLaVA's stage 2); "crop" the middle after resizing
            the shorter side (CLIP's own, LLaVA's stage 1); "squash" both sides to the square (Prismatic's naive
            resize); "letterbox": resize the longer side to fit, then centre on the mean colour.
        mean, std: per channel, in [0, 1].
    """

    size: int
    fit: ImageFit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def with_fit(self, fit: ImageFit | None) -> "ImageTransform":
        """The same transform with another fit; None keeps it."""
        return self if fit is None else replace(self, fit=fit)

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Transform one RGB picture to `[3, size, size]` float32."""
        return self.normalise(np.asarray(self.fitted(image))[None])[0]

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Fitted pictures `[pictures, size, size, 3]` uint8 to the tower's input `[pictures, 3, size, size]`."""
        scaled = pixels.astype(np.float32) * np.float32(1 / 255)
        scaled -= np.asarray(self.mean, np.float32)
        scaled /= np.asarray(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def fitted(self, image: Image.Image) -> Image.Image:
        """The picture as the tower sees it, before normalisation: `size` x `size`, RGB."""
        side = self.size
        width, height = image.size
        if self.fit == "squash":
            return image.resize((side, side), Image.Resampling.BICUBIC)
        if self.fit == "crop":
            return _centre_crop(image, side)
        if self.fit == "letterbox":
            scale = side / max(width, height)
            inner = (max(1, round(width * scale)), max(1, round(height * scale)))
            return self._centred(image.resize(inner, Image.Resampling.BICUBIC), side)
        square = self._centred(image, max(width, height))
        return square.resize((side, side), Image.Resampling.BICUBIC)

    def _centred(self, image: Image.Image, side: int) -> Image.Image:
        if image.size == (side, side):
            return image
        colour = (int(self.mean[0] * 255), int(self.mean[1] * 255), int(self.mean[2] * 255))
        canvas = Image.new("RGB", (side, side), colour)
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return canvas


def _centre_crop(image: Image.Image, side: int) -> Image.Image:
    """Shorter side to `side`, then the middle square (the longer side rounds down, as transformers has it)."""
    width, height = image.size
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return resized.crop((left, top, left + side, top + side))


def moved(pixels: NDArray[np.uint8], augment: AugmentRecipe, draw: np.random.Generator) -> NDArray[np.uint8]:
    """Mirror and shift a fitted picture `[height, width, 3]` at random; what is shifted in repeats the edge."""
    if augment.flip and draw.random() < 0.5:
        pixels = pixels[:, ::-1]
    if augment.shift:
        reach = augment.shift
        down, right = (int(value) for value in draw.integers(0, 2 * reach + 1, size=2))
        padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
        pixels = padded[down : down + pixels.shape[0], right : right + pixels.shape[1]]
    return pixels
