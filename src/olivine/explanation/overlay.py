"""A map drawn over the image as the tower sees it: warm where it speaks for the answer, blue where against."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: The shortest side of an overlay, in pixels.
_SIDE = 448
_FOR, _AGAINST = np.array([238, 98, 20], np.float32), np.array([36, 92, 204], np.float32)
#: Of the image's own colours, how much is grey: colour then belongs to the map.
_GREY = 0.55
_STRONGEST = 0.85


def overlay(image: Image.Image, map_: NDArray[np.float32], *, signed: bool = True) -> Image.Image:
    """Return the image with a map over it, each patch of the grid one block.

    Args:
        image: as the tower sees it, square.
        map_: `[side, side]`; the largest magnitude is drawn strongest.
        signed: whether a negative score speaks against; otherwise the lowest score is drawn as nothing.
    """
    map_ = map_ if signed else map_ - map_.min()
    side = max(_SIDE, image.width)
    side += -side % map_.shape[0]  # blocks of whole pixels
    base = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC), np.float32)
    base = (1 - _GREY) * base + _GREY * base.mean(axis=2, keepdims=True)
    block = side // map_.shape[0]
    scaled = map_ / (np.abs(map_).max() or 1.0)
    strength = np.kron(scaled, np.ones((block, block), np.float32))[..., None]
    colour = np.where(strength >= 0, _FOR, _AGAINST)
    mixed = base + _STRONGEST * np.abs(strength) * (colour - base)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def data_uri(image: Image.Image) -> str:
    """Return an image as a PNG inside an address."""
    raw = io.BytesIO()
    image.save(raw, format="PNG")
    return "data:image/png;base64," + base64.b64encode(raw.getvalue()).decode("ascii")
