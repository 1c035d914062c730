"""Rendering of a scene: background, lighting, noise, and its objects from back to front.

The shape of each class is in `shapes`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from olivine.world.scene import SIDE, Scene
from olivine.world.shapes import draw_object

#: Objects are drawn this many times larger and downsampled, for soft edges.
_FINER = 3
#: (above the horizon, below it) for each backdrop.
_BACKGROUND = {
    "park": ((184, 212, 236), (150, 184, 118)),
    "street": ((208, 210, 214), (132, 132, 138)),
    "kitchen": ((232, 212, 186), (186, 150, 118)),
    "beach": ((128, 190, 214), (230, 212, 164)),
}
#: Brightness at night: of the background, of the objects (which must keep their colours).
_NIGHT = (np.array([0.40, 0.42, 0.52], np.float32), np.array([0.80, 0.80, 0.86], np.float32))
_NOISE = 5.0
_SHADE = 0.16

_RAMP = np.linspace(-1, 1, SIDE, dtype=np.float32)
_NOISE_FIELD = np.random.default_rng(20240401).normal(0, _NOISE, (2 * SIDE, 2 * SIDE, 3)).astype(np.float32)


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Render the scene, `[96, 96, 3]`: the same bytes for the same scene."""
    rest = scene.grain
    rest, right = divmod(rest, SIDE)
    horizon, down = divmod(rest, 12)
    background = _background(scene, 44 + horizon % 22)
    objects, cover = _objects(scene)
    if scene.time == "night":
        background *= _NIGHT[0]
        objects *= _NIGHT[1]
    image = background * (1 - cover) + objects
    angle, strength = scene.light
    shade = np.cos(angle) * _RAMP[None, :] + np.sin(angle) * _RAMP[:, None]
    image *= (1 + _SHADE * np.float32(strength) * shade)[:, :, None]
    image += _NOISE_FIELD[down * 8 : down * 8 + SIDE, right : right + SIDE]
    drawn: NDArray[np.uint8] = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return drawn


def image(scene: Scene) -> Image.Image:
    """Render the scene as a PIL image."""
    return Image.fromarray(draw(scene))


def _background(scene: Scene, horizon: int) -> NDArray[np.float32]:
    above, below = _BACKGROUND[scene.backdrop]
    ground = np.empty((SIDE, SIDE, 3), np.float32)
    ground[:horizon] = above
    ground[horizon:] = below
    if scene.backdrop == "kitchen":
        ground[horizon + 8 :: 12] *= 0.9  # tiles
        ground[horizon:, scene.grain % 16 :: 16] *= 0.9
    if scene.backdrop == "street":
        ground[horizon + (SIDE - horizon) // 2, scene.grain % 12 :: 12] = 235
    return ground


def _objects(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Render the objects on black, `[96, 96, 3]`, and their coverage of each pixel, `[96, 96, 1]` in 0 to 1."""
    # Averaging colours over transparent black gives colour times cover, which is what compositing needs.
    sheet = Image.new("RGBA", (SIDE * _FINER, SIDE * _FINER), (0, 0, 0, 0))
    pen = ImageDraw.Draw(sheet)
    for obj in scene.objects:
        draw_object(pen, obj, _FINER)
    pixels = np.asarray(sheet.reduce(_FINER), np.float32)
    return pixels[:, :, :3].copy(), pixels[:, :, 3:] / np.float32(255)
