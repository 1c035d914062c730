"""Images fitted to the tower's square, normalised, and (in training) flipped and shifted.

Bit-identical to the saved `transformers` image processor; only images so elongated that its intermediate canvas would
be disproportionately large are fitted another way (`_CANVAS_PIXELS`).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from olivine.data.image_modes import upright_rgb
from olivine.recipe import AugmentRecipe, ImageFit, Resample

#: A canvas of this many pixels (256 MB) is made for any image, a larger one only in proportion to the image.
_CANVAS_PIXELS = 2**26
_CANVAS_PER_PIXEL = 4
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
#: The radius of the widest of Pillow's filters above, in pixels of the smaller of input and output.
_REACH = 2
#: transformers' rescaling of 8-bit values, with its rounding.
_SCALED = (np.arange(256) * (1 / 255)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """The transform from an image to the tower's input.

    Attributes:
        size: side of the square, in pixels.
        fit: "pad" to a square with the mean colour, then resize (LLaVA's stage 2); "crop" the centre after resizing
            the shorter side (CLIP's own, LLaVA's stage 1); "squash" both sides to the square (Prismatic's naive
            resize); "letterbox": resize the longer side to fit, then centre on the mean colour.
        mean, std: per channel, in [0, 1].
        resample: the filter that resizes.
    """

    size: int
    fit: ImageFit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Resample = "bicubic"

    def with_fit(self, fit: ImageFit | None) -> "ImageTransform":
        """Return the same transform with another fit; None keeps it."""
        return self if fit is None else replace(self, fit=fit)

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Transform one image to `[3, size, size]` float32."""
        return self.normalise(np.asarray(self.fitted(image))[None])[0]

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn fitted images `[images, size, size, 3]` uint8 into the tower's input `[images, 3, size, size]`."""
        made = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
        for channel, values in enumerate(self.channel_values()):
            made[:, channel] = values[pixels[..., channel]]
        return made

    def channel_values(self) -> NDArray[np.float32]:
        """Return each 8-bit level's value in each channel, `[3, 256]`: a look-up has the same bits on any device."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values: NDArray[np.float32] = (_SCALED[None] - mean[:, None]) / std[:, None]
        return values

    def fitted_pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the result of `fitted` as `[size, size, 3]` uint8."""
        return np.asarray(self.fitted(image))

    def fitted(self, image: Image.Image) -> Image.Image:
        """Return the image as the tower sees it, before normalisation: `size` x `size`, RGB.

        Memory and time are bounded by the image's pixels and by `size` times its longer side, for any shape.
        """
        if image.mode != "RGB":
            image = upright_rgb(image)
        filtered = _FILTERS[self.resample]
        if self.fit == "squash":
            return image.resize((self.size, self.size), filtered)
        if self.fit == "crop":
            return _crop(image, self.size, filtered)
        if self.fit == "letterbox":
            scale = self.size / max(image.size)
            inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            return _centred(image.resize(inner, filtered), (self.size, self.size), self._background)
        return _pad(image, self.size, self._background, filtered)

    @property
    def _background(self) -> tuple[int, int, int]:
        return (int(self.mean[0] * 255), int(self.mean[1] * 255), int(self.mean[2] * 255))


def _pad(image: Image.Image, side: int, background: tuple[int, int, int], filtered: Image.Resampling) -> Image.Image:
    """Centre on a square of the background, then resize to `side`.

    A disproportionately large canvas is avoided: Pillow resizes along the width and then along the height, and so does
    this, each on a canvas with one side of `side` pixels. For wide images the bits are the same. Tall ones are resized
    along the height first, which rounds in another order (off by at most 2 of 255 in the tests).
    """
    width, height = image.size
    longer = max(width, height)
    if _in_proportion(longer * longer, image):
        return _centred(image, (longer, longer), background).resize((side, side), filtered)
    if width > height:
        narrow = image.resize((side, height), filtered)
        return _centred(narrow, (side, longer), background).resize((side, side), filtered)
    low = image.resize((width, side), filtered)
    return _centred(low, (longer, side), background).resize((side, side), filtered)


def _crop(image: Image.Image, side: int, filtered: Image.Resampling) -> Image.Image:
    """Resize the shorter side to `side`, then crop the centre square (the longer side rounds down, as in transformers).

    If an image is so elongated that the resized one would be disproportionately large, only the visible part is
    resized, from the same coordinates (off by at most 2 of 255 in the tests).
    """
    width, height = image.size
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    if _in_proportion(size[0] * size[1], image):
        resized = image.resize(size, filtered)
        return resized.crop((left, top, left + side, top + side))
    first_column, last_column, box_left, box_right = _visible(width, size[0], left, side)
    first_row, last_row, box_top, box_bottom = _visible(height, size[1], top, side)
    window = image.crop((first_column, first_row, last_column, last_row))
    box = (box_left, box_top, box_right, box_bottom)
    return window.resize((side, side), filtered, box=box)


def _visible(length: int, resized: int, start: int, side: int) -> tuple[int, int, float, float]:
    """Return which pixels of an axis contribute to `side` pixels from `start` of the resized one.

    The result is (first, end) of a window of the axis, and where in the window the visible part begins and ends.
    """
    scale = length / resized
    begins, ends = start * scale, (start + side) * scale
    reach = _REACH * max(1.0, scale) + 1
    first = max(0, math.floor(begins - reach))
    return first, min(length, math.ceil(ends + reach)), begins - first, min(ends, length) - first


def _in_proportion(canvas: int, image: Image.Image) -> bool:
    return canvas <= max(_CANVAS_PIXELS, _CANVAS_PER_PIXEL * image.width * image.height)


def _centred(image: Image.Image, size: tuple[int, int], background: tuple[int, int, int]) -> Image.Image:
    if image.size == size:
        return image
    canvas = Image.new("RGB", size, background)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def augmented(pixels: NDArray[np.uint8], augment: AugmentRecipe, draw: np.random.Generator) -> NDArray[np.uint8]:
    """Return a fitted image `[height, width, 3]`, randomly mirrored and shifted; the gap repeats the edge."""
    if augment.flip and draw.random() < 0.5:
        pixels = pixels[:, ::-1]
    if augment.shift:
        reach = augment.shift
        down, right = (int(value) for value in draw.integers(0, 2 * reach + 1, size=2))
        padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
        pixels = padded[down : down + pixels.shape[0], right : right + pixels.shape[1]]
    return pixels
