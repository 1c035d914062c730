"""One process's part of a data set's check: opening images and tokenising samples, with training's own code.

How the work is distributed, and how the findings are used, is in `check_work` and `check`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from olivine.data.encoding import TemplateEncoder
from olivine.data.image_files import decode_image, read_image_bytes
from olivine.data.image_lookup import image_lookup
from olivine.data.image_traits import content_traits
from olivine.data.images import ImageTransform
from olivine.data.item_error import ItemError
from olivine.data.json_items import parse
from olivine.data.llava_json import parse_item
from olivine.data.sources import check_example, image_bytes, open_source
from olivine.errors import DataError
from olivine.recipe import DataRecipe

#: The first bytes of a file, the format that they indicate, and its proper suffixes.
_FORMATS = (
    (b"\xff\xd8\xff", "JPEG", (".jpg", ".jpeg", ".jfif")),
    (b"\x89PNG", "PNG", (".png",)),
    (b"GIF8", "GIF", (".gif",)),
    (b"RIFF", "WEBP", (".webp",)),
    (b"BM", "BMP", (".bmp",)),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF", (".tif", ".tiff")),
)
#: Nearly every file has its header within this many bytes; a file that is not understood from them is read whole.
_HEADER = 16 * 1024
#: Examples named per note and job.
_NAMED = 3
OTHER_SUFFIX, WRONG_EXTENSION = "other suffix on disk", "wrong extension"


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """What decides whether a sample is too long."""

    encoder: TemplateEncoder
    max_length: int
    independent: bool = False


@dataclass(slots=True)
class ImageFindings:
    """Findings on some images: the broken ones by their index among them, and how many have which trait."""

    broken: list[tuple[int, str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, message: str) -> None:
        """Count an image with something noteworthy."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        named = self.named.setdefault(kind, [])
        if len(named) < _NAMED:
            named.append(message)


@dataclass(frozen=True, slots=True)
class LengthFindings:
    """The length of the longest of some samples, and which are broken, by their index among the usable ones."""

    longest: int
    broken: list[tuple[int, str, str]]


@dataclass(frozen=True, slots=True)
class Items:
    """Some usable samples of a source, from `first` on: their numbers in it and, for a JSON file, their byte ranges."""

    first: int
    numbers: Sequence[int]
    starts: Sequence[int] = ()
    sizes: Sequence[int] = ()


def check_images(source: DataRecipe, names: Sequence[str], transform: ImageTransform | None) -> ImageFindings:
    """Read the headers of images, or decode and fit them if a transform is given."""
    findings = ImageFindings()
    for position, name in enumerate(names):
        try:
            if transform is None:
                _read_header(source, name, findings)
            else:
                _read_whole(source, name, transform, findings)
        except ItemError as error:
            findings.broken.append((position, error.kind, str(error)))
        except DataError as error:
            kind = "missing image" if source.format == "llava" and not _is_found(source, name) else "unreadable image"
            findings.broken.append((position, kind, str(error)))
    return findings


def check_lengths(source: DataRecipe, items: Items, limit: LengthLimit) -> LengthFindings:
    """Tokenise samples as training does."""
    longest = 0
    broken = []
    samples = None if source.format == "llava" else open_source(source)
    file = source.json_.open("rb") if samples is None else None
    try:
        for position, number in enumerate(items.numbers):
            try:
                if file is not None:
                    file.seek(items.starts[position])
                    content = file.read(items.sizes[position])
                    sample = parse_item(parse(content, f"item {number}"), number, marks=source.marks)
                else:
                    assert samples is not None, "either a JSON file or a source that reads its own samples"
                    sample = samples[number]
                example = limit.encoder.example(sample, independent=limit.independent)
                longest = max(longest, example.length)
                check_example(example, limit.max_length)
            except ItemError as error:
                broken.append((items.first + position, error.kind, str(error)))
    finally:
        if file is not None:
            file.close()
    return LengthFindings(longest, broken)


def state_of(source: DataRecipe, names: Sequence[str]) -> str:
    """Return a hash that shows whether images have changed: of their names and, for files, sizes and times."""
    found = hashlib.sha256()
    for name in names:
        found.update(name.encode("utf-8", "replace") + b"\0")
        if source.format == "llava":
            try:
                assert source.images is not None, "items with images were refused without a root"
                status = image_lookup(source.images).find(name).stat()
                found.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            except (DataError, OSError):
                found.update(b"missing")
    return found.hexdigest()


def _is_found(source: DataRecipe, name: str) -> bool:
    try:
        return source.images is not None and image_lookup(source.images).find(name).is_file()
    except DataError:
        return False


def _read_header(source: DataRecipe, name: str, findings: ImageFindings) -> None:
    if source.format != "llava":
        _note(image_bytes(source, name), name, None, findings)
        return
    assert source.images is not None, "items with images were refused without a root"
    path = image_lookup(source.images).find(name)
    try:
        with path.open("rb") as file:
            content = file.read(_HEADER)
        _note(content, f"{path}", name, findings)
    except (DataError, OSError):  # a header elsewhere, or no image at all: the whole file tells
        content = read_image_bytes(path)
        _note(content, f"{path}", name, findings)


def _read_whole(source: DataRecipe, name: str, transform: ImageTransform, findings: ImageFindings) -> None:
    content = image_bytes(source, name)
    path = name
    if source.format == "llava":
        assert source.images is not None, "items with images were refused without a root"
        path = f"{image_lookup(source.images).find(name)}"
    transform.fitted(decode_image(content, path))
    _note(content, path, name if source.format == "llava" else None, findings)


def _note(content: bytes, path: str, named: str | None, findings: ImageFindings) -> None:
    """Note an image's format and traits; `named` is the file's name in the data."""
    for trait in content_traits(content, path):
        findings.note(trait, path)
    if named is None:
        return
    suffix = PurePath(path).suffix
    if suffix != PurePath(named).suffix:
        findings.note(OTHER_SUFFIX, f"{named!r} is there as {PurePath(path).name!r}")
    actual, suffixes = next(((name, known) for start, name, known in _FORMATS if content.startswith(start)), ("", ()))
    if actual and suffix.lower() not in suffixes:
        findings.note(WRONG_EXTENSION, f"{PurePath(path).name!r} holds {actual}")
