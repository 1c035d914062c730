"""Images of questions, opened and fitted by a pool of threads ahead of the model that is shown them.

Which questions are asked together is in `engine`.
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
#: `[size, size, 3]`, fitted and not yet normalised.
Pixels = NDArray[np.uint8]
#: Batches of questions whose images are opened before their turn: one is shown, one is ready, one is being opened.
_DEPTH = 2


class ImageReader:
    """Opens images by their names.

    Args:
        images: where they are; None if the caller was given no place.
        transform: fits an image to the tower's square.
        threads: how many are opened beside one another and ahead; 0 opens each when it is asked for.
    """

    def __init__(self, images: ImageSource | None, transform: Callable[[Image.Image], Pixels], threads: int) -> None:
        self._images = images
        self._transform = transform
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images") if threads else None

    def ahead(
        self, batches: Iterable[T], names: Callable[[T], Sequence[str]]
    ) -> Iterator[tuple[T, list[Callable[[], Pixels]]]]:
        """Yield each batch with a call for each of its images, in order, that gives it or raises `DataError`."""
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
        """End the threads; images that nobody will ask for are not opened any more."""
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
