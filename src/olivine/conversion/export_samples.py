"""The images and questions that a proof asks both sides: drawn here, or the first of a benchmark's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from olivine.data.images import open_image

#: How many a proof asks.
COUNT = 20
_QUESTIONS = (
    "What is in the image?",
    "What color is the largest shape?",
    "Is there a red shape in the image?",
    "How many shapes are there?",
    "What is on the left side of the image?",
)


@dataclass(frozen=True, slots=True)
class ProofSample:
    """One image, RGB, and the question about it."""

    image: Image.Image
    question: str


def drawn_samples(count: int = COUNT, *, side: int | None = None, seed: int = 0) -> list[ProofSample]:
    """Return images of coloured rectangles on coloured ground with plain questions; no file is read.

    Args:
        count: how many.
        side: of square images, in pixels; None draws several shapes and sizes.
        seed: decides the drawing.
    """
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        height, width = (side, side) if side else (int(length) for length in draw.integers(64, 256, 2))
        pixels = np.full((height, width, 3), draw.integers(0, 256, 3), np.uint8)
        for _ in range(int(draw.integers(1, 5))):
            top, left = int(draw.integers(0, height * 3 // 4)), int(draw.integers(0, width * 3 // 4))
            tall, wide = int(draw.integers(height // 4, height)), int(draw.integers(width // 4, width))
            pixels[top : top + tall, left : left + wide] = draw.integers(0, 256, 3)
        made.append(ProofSample(Image.fromarray(pixels), _QUESTIONS[number % len(_QUESTIONS)]))
    return made


def read_samples(questions: Sequence[tuple[Path, str]], count: int = COUNT) -> list[ProofSample]:
    """Return the first `count` of (image file, question), each image once while there are enough of them.

    Raises:
        DataError: an image cannot be read.
    """
    by_image = {path: (path, question) for path, question in reversed(questions)}
    first = [pair for pair in questions if by_image[pair[0]] == pair]
    rest = [pair for pair in questions if by_image[pair[0]] != pair]
    return [ProofSample(open_image(path), question) for path, question in [*first, *rest][:count]]
