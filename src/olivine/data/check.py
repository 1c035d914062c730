"""A data set looked through before any minute of training: what is missing, broken, empty or too long.

Nothing is changed; the same checks decide at training time what `on_error` stops at or skips.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from olivine.data.encoding import TemplateEncoder
from olivine.data.images import open_image
from olivine.data.llava_json import ItemError, item_name, parse_item, read_items
from olivine.data.sources import check_example, image_path
from olivine.errors import DataError
from olivine.records import Sample

#: Formats by what a file begins with, and the suffixes that rightly name them.
_SUFFIXES_OF = {"JPEG": {".jpg", ".jpeg"}, "PNG": {".png"}, "GIF": {".gif"}, "WEBP": {".webp"}, "BMP": {".bmp"}}
#: Named per kind of problem.
_NAMED = 10


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """What decides whether a sample is too long."""

    encoder: TemplateEncoder
    max_length: int


@dataclass(slots=True)
class Report:
    """Problems by kind. `broken` items would stop a run (or be skipped); `notes` would not."""

    path: Path
    items: int = 0
    text_only: int = 0
    turns: int = 0
    pictures: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    longest: int | None = None

    def add_broken(self, error: ItemError) -> None:
        """Count an item that could not be trained on."""
        self.broken[error.kind] += 1
        self._name(error.kind, str(error))

    def note(self, kind: str, message: str) -> None:
        """Count something worth knowing that stops nothing."""
        self.notes[kind] += 1
        self._name(kind, message)

    def summary(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        unsupervised = self.broken.total()
        return {
            "file": str(self.path),
            "items": self.items,
            "text_only": self.text_only,
            "turns": self.turns,
            "pictures": self.pictures,
            "unsupervised": unsupervised,
            "unsupervised_share": unsupervised / self.items if self.items else 0.0,
            "broken": dict(self.broken),
            "notes": dict(self.notes),
            "named": dict(self.named),
            "longest": self.longest,
        }

    def lines(self) -> list[str]:
        """The report for reading."""
        share = 100 * self.broken.total() / self.items if self.items else 0.0
        lines = [
            f"{self.path}: {self.items:,} items, {self.turns:,} turns, {self.pictures:,} pictures, "
            f"{self.text_only:,} text-only",
            f"not trainable as they are: {self.broken.total():,} ({share:.2f} %)",
        ]
        for kind, count in [*self.broken.most_common(), *self.notes.most_common()]:
            lines.append(f"  {kind}: {count:,}" + ("" if kind in self.broken else " (note)"))
            lines += [f"    {message}" for message in self.named[kind]]
        if self.longest is not None:
            lines.append(f"longest sample: {self.longest:,} tokens")
        else:
            lines.append("lengths were not looked at (name a --tokenizer)")
        return lines

    def _name(self, kind: str, message: str) -> None:
        if len(self.named[kind]) < _NAMED:
            self.named[kind].append(message)


def check(path: Path, images: Path | None, limit: LengthLimit | None, on_item: Callable[[int, int], None]) -> Report:
    """Look through every item of a LLaVA JSON file, and open every picture once.

    Raises:
        DataError: the file itself cannot be read.
    """
    report = Report(path)
    items = read_items(path)
    seen: dict[str, ItemError | None] = {}
    ids: Counter[str] = Counter()
    for index, item in enumerate(items):
        report.items += 1
        try:
            sample = parse_item(item, index)
            _check_picture(sample, item_name(item, index), images, seen, report)
            if limit is not None:
                example = limit.encoder.example(sample)
                report.longest = max(report.longest or 0, example.length)
                check_example(example, limit.max_length)
        except ItemError as error:
            report.add_broken(error)
        else:
            report.turns += len(sample.conversation)
            report.text_only += sample.image is None
            ids[sample.id] += 1
            if len(item["conversations"]) > len(sample.conversation):
                report.note(
                    "begins with a reply",
                    f"{item_name(item, index)}: what stands before the first question is left out",
                )
        on_item(index + 1, len(items))
    for identity, count in ids.items():
        if count > 1:
            report.note("id used more than once", f"id {identity!r}: {count} items")
    report.pictures = len(seen)
    return report


def _check_picture(
    sample: Sample, name: str, images: Path | None, seen: dict[str, ItemError | None], report: Report
) -> None:
    """Open a sample's picture the first time it is met; each item that shows a broken one is broken."""
    if sample.image is None:
        return
    if sample.image not in seen:
        try:
            path = image_path(sample, images, name)
            _note_suffix(path, sample.image, name, report)
            open_image(path)
            seen[sample.image] = None
        except ItemError as error:
            seen[sample.image] = ItemError(error.kind, str(error).removeprefix(name))
        except DataError as error:
            seen[sample.image] = ItemError("unreadable image", f": {error}")
    problem = seen[sample.image]
    if problem is not None:
        raise ItemError(problem.kind, name + str(problem))


def _note_suffix(path: Path, named: str, name: str, report: Report) -> None:
    if path.suffix != Path(named).suffix:
        report.note("other suffix on disk", f"{name}: {named!r} is there as {path.name!r}")
    try:
        with Image.open(path) as image:
            actual = image.format or ""
    except Exception:
        return  # whatever is wrong with it, opening it whole says so
    if path.suffix.lower() not in _SUFFIXES_OF.get(actual, {path.suffix.lower()}):
        report.note("wrong extension", f"{name}: {path.name!r} holds {actual}")
