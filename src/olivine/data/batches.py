"""Batches in a fixed order: which samples each step takes, their images, and preparing them ahead of the model.

The order follows from the seed, the stage's name and the step alone, so that a run resumes without rereading data.
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
from olivine.data.images import ImageTransform, augmented
from olivine.data.llava_json import ItemError
from olivine.data.packing import PackedSequence, SequenceLayout, distribute, pack
from olivine.data.pieces import without_system
from olivine.data.sources import check_example, open_sample_image
from olivine.errors import DataError
from olivine.recipe import DataRecipe
from olivine.records import Sample

#: Tokenised examples are cached for the next epoch up to this many tokens in total (about 20 bytes each).
_KEPT_TOKENS = 8_000_000
#: Fitted images are cached for the next epoch up to this many bytes in total.
_KEPT_PIXELS = 256 * 2**20


#: An image as it goes into a batch: fitted pixels `[size, size, 3]`, or its row in a table of features.
_ImageInput = NDArray[np.uint8] | int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one optimiser step takes: packed sequences, and the unique images in them.

    `pixels` is `[images, size, size, 3]` uint8, fitted and not yet normalised, None for text alone. If the tower's
    features are on disk, `patches` `[images, patches, tower width]` has them in place of pixels. `captions` has the
    first reply about each image. `sequences` are this process's own; `rounds` is the largest number of them that any
    process has, and `sample_ids` are those of all processes in sample order. `skipped` has the broken samples that
    this process skipped, by id, and what was wrong with each, in a word or two.
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
        """Labelled tokens of all packed sequences."""
        return sum(sequence.labels for sequence in self.sequences)

    @property
    def label_weight(self) -> float:
        """What all labels weigh together in the loss: their number, unless samples have weights."""
        weights = [sequence.label_weights for sequence in self.sequences]
        return sum(
            float(sequence.labels if own is None else own.double().sum())
            for sequence, own in zip(self.sequences, weights, strict=True)
        )

    @property
    def samples(self) -> int:
        """How many samples its packed sequences contain."""
        return sum(len(sequence.sample_ids) for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        """Tokens of all packed sequences, image tokens included."""
        return sum(len(sequence.ids) for sequence in self.sequences)


class SampleOrder:
    """The samples of each step: epoch after epoch, each a new permutation drawn from the seed.

    Args:
        count: samples in the source.
        batch: samples per step.
        epochs: how often each is seen; the last step may be smaller.
        steps: if given, exactly this many full steps instead.
        key: what else the order depends on (the stage's name).
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
        """Return (epoch, index) of each sample of a step, counted from 0."""
        positions = range(step * self._batch, min((step + 1) * self._batch, self._total))
        return [
            (position // self._count, self._shuffled(position // self._count, position % self._count))
            for position in positions
        ]

    def draw(self, epoch: int, index: int) -> np.random.Generator:
        """Return the random generator of one sample in one epoch."""
        return np.random.default_rng([*self._entropy, epoch, index])

    def _shuffled(self, epoch: int, position: int) -> int:
        if self._permutation[0] != epoch:
            # The last epoch's is freed before the next is drawn: eight bytes per sample, never sixteen.
            self._permutation = (-1, np.empty(0, np.int64))
            self._permutation = (epoch, np.random.default_rng([*self._entropy, epoch]).permutation(self._count))
        return int(self._permutation[1][position])


@dataclass(frozen=True, slots=True)
class Share:
    """This process's share of a batch's packed sequences: that of `rank` among `world`."""

    rank: int = 0
    world: int = 1


class BatchMaker:
    """The maker of batches from samples: tokenised, packed, images opened, each unique image once.

    Args:
        samples: the samples that indices refer to.
        source: the data source's recipe.
        encoder: tokenises samples.
        transform: fits images to the tower's input.
        sequence_tokens: the most tokens in a packed sequence.
        share: every process tokenises and packs the whole batch alike, and opens only the images of its own sequences.
        readers: threads that open images in parallel.
        features: cached tower features of all images; no image is then opened.
        record: what every opened image is compared with.
        layout: what packed sequences contain besides their tokens.
        pinned: put pixels into page-locked memory, from which a GPU copies without waiting.
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

    def make(self, positions: Sequence[tuple[int, int]], order: SampleOrder | None = None) -> Batch:
        """Return the batch of the samples at (epoch, index); `order` draws augmentation, None turns it off.

        Raises:
            DataError: under `on_error: stop`, at the first broken sample (its image damaged, too long, ...).
        """
        skipped: dict[str, str] = {}
        examples: list[tuple[tuple[int, int], Example]] = []
        for epoch, index in positions:
            try:
                examples.append(((epoch, index), self._example(index)))
            except ItemError as error:
                skipped[self._name(index)] = self._skip(error)
        balanced = distribute([example.length for _, example in examples], self._sequence_tokens, self._share.world)
        own = balanced[self._share.rank :: self._share.world]
        # In the batch's order, not the sequences': which of two broken images is named must not depend on packing.
        local = [examples[i] for i in sorted(i for sequence in own for i in sequence)]
        images, broken = self._images(local, order)
        image_index = {name: index for index, name in enumerate(images)}
        sequences = []
        for balanced_sequence in own:
            kept = [example for i in balanced_sequence if not _problem(example := examples[i][1], broken)]
            if kept:
                images_in_sequence = [image_index[name] for e in kept for name in e.sample.all_images]
                sequences.append(pack(kept, images_in_sequence, self._layout))
        for _, example in local:
            problem = _problem(example, broken)
            if problem is not None:
                skipped[example.sample.id] = self._skip(problem)
        first_of: dict[str, str] = {}
        for _, example in local:
            for name in example.sample.all_images:
                if name in images:
                    first_of.setdefault(name, without_system(example.sample.conversation)[1][1].text)
        return Batch(
            sequences=tuple(sequences),
            pixels=self._stacked_pixels(images),
            patches=self._stacked_features(images),
            captions=tuple(first_of.values()),
            rounds=math.ceil(len(balanced) / self._share.world),
            sample_ids=tuple(e.sample.id for _, e in examples if not _problem(e, broken)),
            skipped=skipped,
        )

    def _images(
        self, examples: Sequence[tuple[tuple[int, int], Example]], order: SampleOrder | None
    ) -> tuple[dict[str, _ImageInput], dict[str, ItemError]]:
        """Return each unique image by name in order of first use, and what is wrong with the broken ones."""
        first: dict[str, tuple[tuple[int, int], Sample]] = {}
        for position, example in examples:
            for name in example.sample.all_images:
                first.setdefault(name, (position, example.sample))

        def read(name: str) -> _ImageInput | ItemError:
            (epoch, index), sample = first[name]
            try:
                if self._features is not None:
                    return self._features.position(name)
                return self._pixels(sample, name, order.draw(epoch, index) if order else None)
            except ItemError as error:
                return error

        found = (self._readers.map if self._readers else map)(read, first)
        images: dict[str, _ImageInput] = {}
        broken: dict[str, ItemError] = {}
        for name, result in zip(first, found, strict=True):
            if isinstance(result, ItemError):
                broken[name] = result
            else:
                images[name] = result
        return images, broken

    def _stacked_pixels(self, images: Mapping[str, _ImageInput]) -> Tensor | None:
        fitted = [image for image in images.values() if not isinstance(image, int)]
        if not fitted:
            return None
        pixels = torch.from_numpy(np.stack(fitted))
        return pixels.pin_memory() if self._pinned else pixels

    def _stacked_features(self, images: Mapping[str, _ImageInput]) -> Tensor | None:
        rows = [image for image in images.values() if isinstance(image, int)]
        return self._features.rows(rows) if self._features is not None and rows else None

    def _name(self, index: int) -> str:
        """Return a sample's id, or its index if it cannot even be read."""
        try:
            return self._samples[index].id
        except ItemError:
            return f"#{index}"

    def _skip(self, error: ItemError) -> str:
        """Apply the source's policy to a broken sample and return what is wrong, in a word or two."""
        if self._source.on_error == "stop":
            raise DataError(f"{self._source.json_}: {error} (to skip such items: on_error: skip)") from None
        return error.kind

    def sample(self, index: int) -> Sample:
        """Return a sample by its index."""
        return self._samples[index]

    def images(self, sample: Sample) -> list[Image.Image]:
        """Return a sample's images as stored, in the order of their marks.

        Raises:
            ItemError: it cannot be read.
            RunError: it has changed since the run first opened it.
        """
        return [self._open(sample, name) for name in sample.all_images]

    def _open(self, sample: Sample, name: str) -> Image.Image:
        return open_sample_image(sample, self._source, self._record, image=name)

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

    def _pixels(self, sample: Sample, name: str, draw: np.random.Generator | None) -> NDArray[np.uint8]:
        pixels = self._fitted.get(name)
        if pixels is None:
            pixels = np.asarray(self._transform.fitted(self._open(sample, name)))
            if (len(self._fitted) + 1) * pixels.nbytes <= _KEPT_PIXELS:
                self._fitted[name] = pixels
        return pixels if draw is None else augmented(pixels, self._source.augment, draw)


def _problem(example: Example, broken: Mapping[str, ItemError]) -> ItemError | None:
    """Return what is wrong with the first broken image of an example, if any is."""
    return next((broken[name] for name in example.sample.all_images if name in broken), None)


def ahead(maker: BatchMaker, order: SampleOrder, first_step: int, *, depth: int = 2) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) from `first_step` on, prepared in a thread `depth` steps ahead of the consumer."""
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
