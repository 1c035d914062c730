"""Batches in a fixed order: which samples each step takes, their images, and preparing them ahead of the model.

The order follows from the seed, the stage's name and the step alone, so that a run resumes without reading again.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from olivine.data.encoding import Example, TemplateEncoder
from olivine.data.features import FeatureTable
from olivine.data.image_record import SourceRecord
from olivine.data.images import ImageTransform, moved
from olivine.data.llava_json import ItemError
from olivine.data.packing import PackedSequence, SequenceLayout, distribute, pack
from olivine.data.pieces import without_system
from olivine.data.sources import check_example, open_sample_image
from olivine.errors import DataError
from olivine.recipe import DataRecipe
from olivine.records import Sample

#: Tokenised examples are kept for the next epoch up to this many tokens in all (about 20 bytes each).
_KEPT_TOKENS = 8_000_000
#: Fitted images are kept for the next epoch up to this many bytes in all.
_KEPT_PIXELS = 256 * 2**20


#: An image as it goes into a batch: fitted pixels `[size, size, 3]`, or its row in a table of features.
_Shown = NDArray[np.uint8] | int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one optimiser step takes: packed rows, and the unique images that they show.

    `pixels` is `[images, size, size, 3]` uint8, fitted and not yet normalised, None for text alone; where the tower's
    features are on disk,
    `patches` `[images, patches, tower width]` has them in place of pixels. `captions` has the first reply about each
    image. `rows` are this process's own; `rounds` is the largest number of them that any process has, and
    `sample_ids` are those of all processes in the order's own order. `skipped` has the broken samples that this process
    left out, by id, and what was wrong with each, in a word or two.
    """

    sequences: tuple[PackedSequence, ...]
    pixels: Tensor | None
    patches: Tensor | None
    captions: tuple[str, ...]
    rounds: int
    sample_ids: tuple[str, ...]
    skipped: Mapping[str, str]

    @property
    def labels(self) -> int:
        """Labelled tokens of all rows."""
        return sum(sequence.labels for sequence in self.sequences)

    @property
    def samples(self) -> int:
        """How many samples are in its rows."""
        return sum(len(sequence.sample_ids) for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        """Tokens of all rows, image tokens included."""
        return sum(len(sequence.ids) for sequence in self.sequences)


class SampleOrder:
    """Which samples a step takes: epoch after epoch, each a fresh permutation drawn from the seed.

    Args:
        count: samples in the source.
        batch: samples a step.
        epochs: how often each is seen; the last step may be smaller.
        steps: if given, exactly this many full steps instead.
        key: whatever else decides the order (the stage's name).
    """

    def __init__(self, count: int, *, batch: int, epochs: float, steps: int | None, seed: int, key: str) -> None:
        self._count = count
        self._batch = batch
        self._total = steps * batch if steps is not None else max(1, round(count * epochs))
        self._entropy = [seed, int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")]
        self._permutation: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return math.ceil(self._total / self._batch)

    @property
    def samples(self) -> int:
        """Samples of all steps together."""
        return self._total

    def at(self, step: int) -> list[tuple[int, int]]:
        """(epoch, index) of each sample of a step, counted from 0."""
        token_positions = range(step * self._batch, min((step + 1) * self._batch, self._total))
        return [
            (position // self._count, self._shuffled(position // self._count, position % self._count))
            for position in token_positions
        ]

    def draw(self, epoch: int, index: int) -> np.random.Generator:
        """The source of randomness that belongs to one sample in one epoch."""
        return np.random.default_rng([*self._entropy, epoch, index])

    def _shuffled(self, epoch: int, position: int) -> int:
        if self._permutation[0] != epoch:
            # The last epoch's goes before the next is drawn: eight bytes a sample, never sixteen.
            self._permutation = (-1, np.empty(0, np.int64))
            self._permutation = (epoch, np.random.default_rng([*self._entropy, epoch]).permutation(self._count))
        return int(self._permutation[1][position])


@dataclass(frozen=True, slots=True)
class Share:
    """Which of a batch's rows are this process's: those of `rank` among `world`."""

    rank: int = 0
    world: int = 1


class BatchMaker:
    """Samples to batches: tokenised, packed, images opened, each unique image once.

    Args:
        samples: what indices point into.
        source: the data source's recipe.
        encoder: tokenises.
        transform: fits images to the tower's input.
        sequence_tokens: what a row holds at most.
        share: every process tokenises the whole batch, deals it to rows alike and opens its own rows' images alone.
        readers: threads that open images beside one another.
        features: where the tower's features of all images are kept; none is then opened.
        record: what every image that is opened is compared with.
        layout: what rows bring besides their tokens.
        pinned: put pixels into page-locked memory, from which a GPU copies without a wait.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        source: DataRecipe,
        encoder: TemplateEncoder,
        transform: ImageTransform,
        *,
        sequence_tokens: int,
        share: Share = Share(),  # immutable
        readers: int = 1,
        features: FeatureTable | None = None,
        record: SourceRecord | None = None,
        layout: SequenceLayout = SequenceLayout(),  # noqa: B008  # immutable
        pinned: bool = False,
    ) -> None:
        self._layout = layout
        self._pinned = pinned
        self._record = record
        self._samples = samples
        self._features = features
        self._source = source
        self._encoder = encoder
        self._transform = transform
        self._sequence_tokens = sequence_tokens
        self._share = share
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="images") if readers > 1 else None
        self._examples: dict[int, Example] = {}
        self._kept_tokens = 0
        self._fitted: dict[str, NDArray[np.uint8]] = {}

    def make(self, token_positions: Sequence[tuple[int, int]], order: SampleOrder | None = None) -> Batch:
        """One batch of the samples at (epoch, index); `order` gives augmentation its randomness, None leaves it out.

        Raises:
            DataError: under `on_error: stop`, the first sample that is broken (its image damaged, too long, ...).
        """
        left_out: dict[str, str] = {}
        examples: list[tuple[tuple[int, int], Example]] = []
        for epoch, index in token_positions:
            try:
                examples.append(((epoch, index), self._example(index)))
            except ItemError as error:
                left_out[self._name(index)] = self._leave_out(error)
        balanced = distribute([example.length for _, example in examples], self._sequence_tokens, self._share.world)
        own = balanced[self._share.rank :: self._share.world]
        # In the batch's order, not the rows': which of two broken images is named does not hang on the dealing.
        shown = [examples[i] for i in sorted(i for sequence in own for i in sequence)]
        images, broken = self._images(shown, order)
        position_of = {name: position for position, name in enumerate(images)}
        sequences = []
        for balanced_sequence in own:
            kept = [examples[i][1] for i in balanced_sequence if examples[i][1].sample.image not in broken]
            if kept:
                images_in_sequence = [position_of[e.sample.image] for e in kept if e.sample.image is not None]
                sequences.append(pack(kept, images_in_sequence, self._layout))
        for _, example in shown:
            if example.sample.image in broken:
                left_out[example.sample.id] = self._leave_out(broken[example.sample.image])
        first_of: dict[str, str] = {}
        for _, example in shown:
            if example.sample.image in images:
                first_of.setdefault(example.sample.image, without_system(example.sample.conversation)[1][1].text)
        return Batch(
            sequences=tuple(sequences),
            pixels=self._stacked_pixels(images),
            patches=self._stacked_features(images),
            captions=tuple(first_of.values()),
            rounds=math.ceil(len(balanced) / self._share.world),
            sample_ids=tuple(e.sample.id for _, e in examples if e.sample.image not in broken),
            skipped=left_out,
        )

    def _images(
        self, shown: Sequence[tuple[tuple[int, int], Example]], order: SampleOrder | None
    ) -> tuple[dict[str, _Shown], dict[str | None, ItemError]]:
        """Each unique image by its name in the order it is first shown; and what is wrong with the broken ones."""
        first: dict[str, tuple[tuple[int, int], Sample]] = {}
        for position, example in shown:
            if example.sample.image is not None:
                first.setdefault(example.sample.image, (position, example.sample))

        def read(job: tuple[tuple[int, int], Sample]) -> _Shown | ItemError:
            (epoch, index), sample = job
            try:
                if self._features is not None:
                    assert sample.image is not None, "only samples with images are looked up"
                    return self._features.position(sample.image)
                return self._pixels(sample, order.draw(epoch, index) if order else None)
            except ItemError as error:
                return error

        found = (self._readers.map if self._readers else map)(read, first.values())
        images: dict[str, _Shown] = {}
        broken: dict[str | None, ItemError] = {}
        for name, result in zip(first, found, strict=True):
            if isinstance(result, ItemError):
                broken[name] = result
            else:
                images[name] = result
        return images, broken

    def _stacked_pixels(self, images: Mapping[str, _Shown]) -> Tensor | None:
        fitted = [shown for shown in images.values() if not isinstance(shown, int)]
        if not fitted:
            return None
        pixels = torch.from_numpy(np.stack(fitted))
        return pixels.pin_memory() if self._pinned else pixels

    def _stacked_features(self, images: Mapping[str, _Shown]) -> Tensor | None:
        token_positions = [shown for shown in images.values() if isinstance(shown, int)]
        return self._features.rows(token_positions) if self._features is not None and token_positions else None

    def _name(self, index: int) -> str:
        """A sample's id, or its place where it cannot even be read."""
        try:
            return self._samples[index].id
        except ItemError:
            return f"#{index}"

    def _leave_out(self, error: ItemError) -> str:
        """Apply the source's policy to a broken sample; returns what is wrong, in a word or two."""
        if self._source.on_error == "stop":
            raise DataError(f"{self._source.json_}: {error} (to leave such items out: on_error: skip)") from None
        return error.kind

    def sample(self, index: int) -> Sample:
        """A sample by its index."""
        return self._samples[index]

    def image(self, sample: Sample) -> Image.Image:
        """A sample's image as it is stored.

        Raises:
            ItemError: it cannot be read.
            RunError: it has changed since the run first opened it.
        """
        return open_sample_image(sample, self._source, self._record)

    def _example(self, index: int) -> Example:
        if index not in self._examples:
            sample = self._samples[index]
            example = self._encoder.example(sample, independent=self._source.turns == "independent")
            check_example(example, self._source.max_length)
            if self._kept_tokens + example.length > _KEPT_TOKENS:
                return example
            self._kept_tokens += example.length
            self._examples[index] = example
        return self._examples[index]

    def _pixels(self, sample: Sample, draw: np.random.Generator | None) -> NDArray[np.uint8]:
        assert sample.image is not None, "asked for the image of a text-only sample"
        pixels = self._fitted.get(sample.image)
        if pixels is None:
            pixels = self._fit(sample)
            if (len(self._fitted) + 1) * pixels.nbytes <= _KEPT_PIXELS:
                self._fitted[sample.image] = pixels
        return pixels if draw is None else moved(pixels, self._source.augment, draw)

    def _fit(self, sample: Sample) -> NDArray[np.uint8]:
        return np.asarray(self._transform.fitted(self.image(sample)))


def ahead(maker: BatchMaker, order: SampleOrder, first_step: int, *, depth: int = 2) -> Iterator[tuple[int, Batch]]:
    """(step, batch) from `first_step` on, prepared in a thread `depth` steps ahead of whoever takes them."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        waiting: list[tuple[int, Future[Batch]]] = []
        try:
            for step in range(first_step, order.steps):
                waiting.append((step, pool.submit(maker.make, order.at(step), order)))
                if len(waiting) > depth:
                    ready, future = waiting.pop(0)
                    yield ready, future.result()
            for ready, future in waiting:
                yield ready, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
