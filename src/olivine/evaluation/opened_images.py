"""The questions' images, opened and resized by a pool of threads ahead of the model.

Which questions are asked together is decided in `engine`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from olivine.data.images import ImageSource
from olivine.errors import DataError

T = TypeVar("T")
#: `[size, size, 3]`, resized and not yet normalised.
Pixels = NDArray[np.uint8]
#: Batches of questions whose images are opened ahead: one is in use, one is ready, one is being opened.
_DEPTH = 2


class ImageReader:
    """Opens images by their names.

    Args:
        images: where they are; None if no image root was given.
        transform: resizes an image to the tower's square input.
        threads: how many images are opened in parallel and ahead; 0 opens each one on demand.
    """

    def __init__(self, images: ImageSource | None, transform: Callable[[Image.Image], Pixels], threads: int) -> None:
        self._images = images
        self._transform = transform
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images") if threads else None

    def ahead(
        self, batches: Iterable[T], names: Callable[[T], Sequence[str]]
    ) -> Iterator[tuple[T, list[Callable[[], Pixels]]]]:
        """Yield each batch with one callable per image, in order, that returns the image or raises `DataError`."""
        if self._pool is None:
            for batch in batches:
                yield batch, [self._call(name) for name in names(batch)]
            return
        waiting: deque[tuple[T, list[Callable[[], Pixels]]]] = deque()
        for batch in batches:
            waiting.append((batch, [self._pool.submit(self._open, name).result for name in names(batch)]))
            if len(waiting) > _DEPTH:
                yield waiting.popleft()
        yield from waiting

    def close(self) -> None:
        """Stop the threads; images that are no longer needed are not opened."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _call(self, name: str) -> Callable[[], Pixels]:
        return lambda: self._open(name)

    def _open(self, name: str) -> Pixels:
        if self._images is None:
            raise DataError(f"image {name!r}: no image root was given (--images DIR).")
        return self._transform(self._images.open(name))


@contextmanager
def reading(
    images: ImageSource | None, transform: Callable[[Image.Image], Pixels], threads: int
) -> Iterator[ImageReader]:
    """Open images inside the block."""
    reader = ImageReader(images, transform, threads)
    try:
        yield reader
    finally:
        reader.close()
