"""A recipe's data source as a list of samples, with broken items handled by its policy.

Each format is read in its own module; images are opened only when a batch needs them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from olivine.data import huggingface
from olivine.data.encoding import Example, TemplateEncoder
from olivine.data.image_lookup import image_lookup
from olivine.data.image_record import SourceRecord
from olivine.data.images import decode_image, read_image_bytes
from olivine.data.item_error import ItemError, shortened
from olivine.data.lazy_samples import LazySamples
from olivine.data.llava_samples import Progress, read_through
from olivine.data.shards import ShardSamples, sample_image_bytes
from olivine.errors import DataError
from olivine.files import sha256_of_file
from olivine.recipe import DataRecipe, OnError
from olivine.records import Sample
from olivine.text_formats import HEAD

DataFormat = Literal["llava", "webdataset", "huggingface"]


@dataclass(slots=True)
class Skipped:
    """Items skipped under `on_error: skip`, counted by what was wrong, with the first few named."""

    kinds: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    #: Keys of items, or columns, that nothing reads, with the number of items that have them.
    unread: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """How many items were skipped."""
        return self.kinds.total()

    def add(self, error: ItemError) -> None:
        """Count one item."""
        self.kinds[error.kind] += 1
        if len(self.examples) < 20:
            self.examples.append(str(error))

    def describe(self) -> str:
        """Describe in one line how many were skipped, and of which kinds."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return f"{self.total} skipped ({kinds})" if self.total else "none skipped"

    def describe_unread(self) -> str:
        """Describe what nothing reads, by name and number of items; empty if there is nothing."""
        names = ", ".join(f"{shortened(repr(key), 40)} ({count:,} items)" for key, count in self.unread.most_common(12))
        more = f" and {len(self.unread) - 12} more" if len(self.unread) > 12 else ""
        return f"not read: {names}{more}" if self.unread else ""


def read_samples(source: DataRecipe, skipped: Skipped, progress: Progress | None = None) -> Sequence[Sample]:
    """Return every sample of a source, in file order; shards and datasets are read, and found broken, on demand.

    Raises:
        DataError: under `on_error: stop`, at the first broken item, with its file and name; under either policy, a file
            that cannot be read or has no usable sample.
    """
    if source.format != "llava":
        lazy = open_source(source)
        skipped.unread.update(lazy.unread)
        return lazy
    samples, _ = read_through(
        source.json_,
        source.images,
        lambda error, _: _apply_policy(source.on_error, error, source.json_, skipped),
        unread=skipped.unread,
        progress=progress,
        marks=source.marks,
    )
    if not len(samples):
        raise DataError(f"{source.json_}: no usable sample ({skipped.describe()}).")
    return samples


def usable(samples: Sequence[Sample], source: DataRecipe) -> Iterator[Sample]:
    """Yield the samples one by one, skipping broken ones if the source's policy is to skip.

    Raises:
        DataError: under `on_error: stop`, at the first broken one.
    """
    for index in range(len(samples)):
        try:
            yield samples[index]
        except ItemError as error:
            _apply_policy(source.on_error, error, source.json_, Skipped())


def encode_samples(
    samples: Iterable[Sample], encoder: TemplateEncoder, source: DataRecipe, skipped: Skipped
) -> list[Example]:
    """Tokenise samples; one that is too long or has no label is broken, and the policy applies.

    Raises:
        DataError: under `on_error: stop`, at the first such sample.
    """
    examples = []
    for sample in samples:
        try:
            example = encoder.example(sample, independent=source.turns == "independent")
            examples.append(check_example(example, source.max_length))
        except ItemError as error:
            _apply_policy(source.on_error, error, source.json_, skipped)
    return examples


def check_example(example: Example, max_length: int) -> Example:
    """Return the example itself, if it can be trained on.

    Raises:
        ItemError: it is longer than `max_length` tokens, or nothing in it is supervised.
    """
    name = f"item with id {example.sample.id!r}"
    if example.length > max_length:
        raise ItemError(
            "too long", f"{name}: {example.length} tokens; max_length is {max_length}. Raise it, or skip such items."
        )
    if not example.labels:
        raise ItemError("no label", f"{name}: none of its tokens is supervised, so there is nothing to train on.")
    return example


def image_path(sample: Sample, image: str, root: Path | None) -> Path:
    """Return the path of one of a sample's images.

    Raises:
        ItemError: no image root was given, the path leaves it, or the file is missing.
    """
    name = f"id {sample.id!r}"
    if root is None:
        raise ItemError("no image root", f"{name}: has an image, but no image root was given (images: DIR).")
    try:
        return image_lookup(root).find(image)
    except DataError as error:
        raise ItemError("missing image", f"{name}: {error}") from None


def open_sample_image(
    sample: Sample, source: DataRecipe, record: SourceRecord | None = None, *, image: str | None = None
) -> Image.Image:
    """Return the only image of a sample, or one of several, as RGB; its content is compared with that in `record`.

    Raises:
        ItemError: it is missing, outside the image root, or cannot be read.
        RunError: its content differs from what the run of `record` opened before.
    """
    image = image or sample.image
    assert image is not None, "the image of a text-only sample was requested"
    try:
        content, name = _image_content(sample, image, source)
    except DataError as error:
        if record is not None:
            record.check_unreadable(image, str(error))
        if isinstance(error, ItemError):
            raise
        raise ItemError("unreadable image", f"id {sample.id!r}: {error}") from None
    if record is not None:
        record.check(image, content)
    try:
        return decode_image(content, name)
    except DataError as error:
        raise ItemError("unreadable image", f"id {sample.id!r}: {error}") from None


def _image_content(sample: Sample, image: str, source: DataRecipe) -> tuple[bytes, str]:
    """Return the content of an image file and its name for messages; raise DataError if it cannot be read."""
    if source.format == "llava":
        path = image_path(sample, image, source.images)
        return read_image_bytes(path), f"{path}"
    return image_bytes(source, image), _image_name(source, image)


def image_bytes(source: DataRecipe, name: str) -> bytes:
    """Return the file content of an image, by the name in its sample.

    Raises:
        DataError: it is missing or cannot be read.
    """
    if source.format == "llava":
        if source.images is None:
            raise DataError(f"image {name!r}: no image root was given (images: DIR).")
        return read_image_bytes(image_lookup(source.images).find(name))
    if source.format == "huggingface":
        return huggingface.opened(source.json_, source.marks).image(name)
    return sample_image_bytes(source.json_, name)


def _image_name(source: DataRecipe, name: str) -> str:
    return f"row {name}" if source.format == "huggingface" else name


def open_source(source: DataRecipe) -> LazySamples:
    """Return the samples of shards or of a dataset, none of them read yet.

    Raises:
        DataError: it cannot be read as a whole.
    """
    assert source.format != "llava", "a JSON file is read completely, with its policy"
    if source.format == "webdataset":
        return ShardSamples(source.json_, source.marks)
    return huggingface.opened(source.json_, source.marks)


def detect_format(path: Path) -> DataFormat:
    """Return the format of a data set on disk, by its files.

    Raises:
        DataError: the format is unknown.
    """
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(HEAD)
        if head.startswith(b"PAR1"):
            return "huggingface"
        return "webdataset" if head[257:262] == b"ustar" else "llava"
    if not path.is_dir():
        raise DataError(f"{path}: file not found. Check the path.")
    if next(path.rglob("*.tar"), None) is not None:
        return "webdataset"
    known = ("state.json", "dataset_dict.json", "*.parquet", "*/*.parquet")
    if any(next(path.glob(pattern), None) is not None for pattern in known):
        return "huggingface"
    files = sorted(file.name for pattern in ("*.json", "*.jsonl") for file in path.glob(pattern))
    raise DataError(
        f"{path}: a folder without .tar shards and without a Hugging Face dataset. Name the JSON file"
        + (f", such as {path / files[0]}." if files else ".")
    )


def fingerprint(source: DataRecipe) -> str:
    """Return what identifies a source's content.

    It is a JSON file's hash, or a hash of the locations of all samples in all shards, or of the names and sizes of a
    dataset's files. Shards are not read for it, which would take hours: an edit that moves nothing goes unnoticed.
    """
    if source.format == "huggingface":
        return huggingface.opened(source.json_, source.marks).fingerprint()
    return sha256_of_file(source.json_) if source.format == "llava" else ShardSamples(source.json_).fingerprint()


def _apply_policy(policy: OnError, error: ItemError, path: Path, skipped: Skipped) -> None:
    if policy == "stop":
        raise DataError(f"{path}: {error} (to skip such items: on_error: skip)") from None
    skipped.add(error)
