"""Checking a data set before training: what is missing, broken, empty or too long.

Nothing in it is changed; the same checks decide at training time what `on_error` stops at or skips. Structure, paths
and headers are quick; a full check decodes and fits every image and tokenises every sample with training's own code.
"""

import hashlib
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from olivine.available_cpus import available_cpus
from olivine.data.check_jobs import ImageFindings, Items, LengthFindings, LengthLimit, state_of
from olivine.data.check_report import NAMED, Report
from olivine.data.check_work import Journal, Progress, Worker, no_progress, run_jobs
from olivine.data.images import ImageTransform
from olivine.data.item_error import ItemError, shortened
from olivine.data.lazy_samples import LazySamples
from olivine.data.llava_json import item_name
from olivine.data.llava_samples import LlavaSamples, read_through
from olivine.data.sources import detect_format, fingerprint, open_source
from olivine.errors import DataError
from olivine.recipe import DataRecipe
from olivine.records import MarkRule, Sample

#: Images, or samples, per job.
_HEADERS, _IMAGES, _ITEMS = 512, 32, 256
READING, DECODING_IMAGES, TOKENISING = "items", "images", "lengths"


@dataclass(frozen=True, slots=True)
class FullCheck:
    """A check of every image with training's own code; `journal` records progress, None puts it beside the data set."""

    transform: ImageTransform
    journal: Path | None = None


def check(
    path: Path,
    images: Path | None,
    limit: LengthLimit | None = None,
    progress: Progress = no_progress,
    *,
    marks: MarkRule = "front",
    full: FullCheck | None = None,
    jobs: int | None = None,
) -> Report:
    """Check every item and, once each, every image.

    Args:
        path: a LLaVA JSON file, WebDataset shards, or a Hugging Face dataset on disk.
        images: the root of the JSON's image paths.
        limit: what makes a sample too long; None checks no lengths.
        progress: called with (what is being checked, done, total).
        marks: where a single image's mark goes, as the recipe's data source has it.
        full: decode and fit every image; None reads headers.
        jobs: processes; None takes one per CPU.

    Raises:
        DataError: the file itself cannot be read.
        RunError: a process was killed.
    """
    began = time.monotonic()
    source = DataRecipe.model_validate({"format": detect_format(path), "json": path, "images": images, "marks": marks})
    report = Report(path, images_read="headers" if full is None else "full")
    found = _Found(report)
    samples = _read_json(source, found, progress) if source.format == "llava" else _read_lazy(source, found, progress)
    work = _Work(source, samples, found, limit, full, jobs or available_cpus())
    work.run(progress)
    found.finish(samples)
    report.seconds = time.monotonic() - began
    return report


class _Found:
    """Findings on each usable item, in arrays: its number, its images' indices, how many they are, and its turns."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.positions, self.images_of, self.image_counts, self.turns = array("q"), array("i"), array("i"), array("i")
        self.numbers: dict[str, int] = {}
        self.broken_images: dict[int, tuple[str, str]] = {}
        self.broken_items: dict[int, tuple[str, str]] = {}

    def add(self, sample: Sample, number: int) -> None:
        """Add one usable item."""
        self.positions.append(number)
        for image in sample.all_images:
            self.images_of.append(self.numbers.setdefault(image, len(self.numbers)))
        self.image_counts.append(len(sample.all_images))
        self.turns.append(len(sample.conversation))

    def finish(self, samples: LazySamples) -> None:
        """Count each item that has a broken image, or is broken itself, once."""
        report = self.report
        images_of, counts = (
            np.frombuffer(column, np.int32) if column else np.zeros(0, np.int32)
            for column in (self.images_of, self.image_counts)
        )
        good = np.ones(len(counts), bool)
        if self.broken_images:
            owners = np.repeat(np.arange(len(counts)), counts)
            broken = np.isin(images_of, np.fromiter(self.broken_images, np.int32, len(self.broken_images)))
            # Of an item with several broken images the first one is named.
            items, first = np.unique(owners[broken], return_index=True)
            good[items] = False
            described: Counter[str] = Counter()
            for index, image in zip(items, images_of[broken][first], strict=True):
                kind, message = self.broken_images[int(image)]
                named = [f"{self._name(samples, int(index))}: {message}"] if described[kind] < NAMED else []
                described[kind] += 1
                report.add(report.broken, kind, 1, named)
        for position, (kind, message) in self.broken_items.items():
            if good[position]:
                report.add(report.broken, kind, 1, [message])
                good[position] = False
        turns = np.frombuffer(self.turns, np.int32) if self.turns else np.zeros(0, np.int32)
        report.turns += int(turns[good].sum())
        report.text_only += int(((counts == 0) & good).sum())
        report.images = len(self.numbers)

    def _name(self, samples: LazySamples, index: int) -> str:
        number = self.positions[index]
        sample = samples[index if isinstance(samples, LlavaSamples) else number]
        return f"item {number} (id {shortened(repr(sample.id), 80)})"


def _read_json(source: DataRecipe, found: _Found, progress: Progress) -> LlavaSamples:
    report = found.report

    def keep(sample: Sample, item: Any, number: int) -> None:
        found.add(sample, number)
        turns = item.get("conversations") or item.get("messages")
        if len(turns) > len(sample.conversation):
            report.note(
                "begins with a reply",
                f"{item_name(item, number)}: what comes before the first question is not used",
            )

    samples, report.items = read_through(
        source.json_,
        source.images,
        lambda error, _: report.add_broken(error),
        keep,
        report.unread,
        lambda done, total: progress(READING, done, total),
        source.marks,
    )
    repeated = Counter(samples[int(index)].id.rpartition("#")[0] for index in samples.repeated_ids)
    for identity, count in repeated.items():
        report.note("id used more than once", f"id {shortened(repr(identity), 80)}: {count} items")
    return samples


def _read_lazy(source: DataRecipe, found: _Found, progress: Progress) -> LazySamples:
    report, samples = found.report, open_source(source)
    report.unread.update(samples.unread)
    report.items = len(samples)
    for index in range(len(samples)):
        try:
            found.add(samples.read(index, report.unread), index)
        except ItemError as error:
            report.add_broken(error)
        except DataError as error:
            report.add_broken(ItemError("unreadable sample", f"sample {index}: {error}"))
        if index % 256 == 255 or index + 1 == len(samples):
            progress(READING, index + 1, len(samples))
    return samples


class _Work:
    """The images and samples of a data set as jobs; finished jobs are taken from an earlier check's journal."""

    def __init__(
        self,
        source: DataRecipe,
        samples: LazySamples,
        found: _Found,
        limit: LengthLimit | None,
        full: FullCheck | None,
        processes: int,
    ) -> None:
        self._source, self._samples, self._found, self._limit = source, samples, found, limit
        self._processes = processes
        self._worker = Worker(source, full.transform if full else None, limit)
        self._names = list(found.numbers)
        self._chunk = _IMAGES if full else _HEADERS
        self._journal = Journal(
            (full.journal or journal_beside(source.json_)) if full else None,
            _request(source, limit, full) if full else {},
        )

    def run(self, progress: Progress) -> None:
        """Run all jobs that are not yet done."""
        try:
            self._check_images(progress)
            if self._limit is not None:
                self._check_lengths(progress)
        finally:
            self._journal.close()

    def _check_images(self, progress: Progress) -> None:
        todo, done = [], 0
        keys: dict[int, str] = {}
        for first in range(0, len(self._names), self._chunk):
            names = self._names[first : first + self._chunk]
            keys[first] = f"{first} {state_of(self._source, names)}" if self._journal.kept else str(first)
            kept = self._journal.images(keys[first])
            if kept is None:
                todo.append((first, names))
            else:
                self._take_images(first, kept)
                done += len(names)
        self._found.report.kept = done
        for first, findings in run_jobs(self._worker, todo, self._processes):
            self._journal.add(keys[first], findings)
            self._take_images(first, findings)
            done = min(done + self._chunk, len(self._names))
            progress(DECODING_IMAGES, done, len(self._names))

    def _take_images(self, first: int, findings: ImageFindings) -> None:
        report = self._found.report
        for position, kind, message in findings.broken:
            self._found.broken_images[first + position] = (kind, message)
        for kind, count in findings.counts.items():
            report.add(report.notes, kind, count, findings.named[kind])

    def _check_lengths(self, progress: Progress) -> None:
        todo, done, total = [], 0, len(self._found.positions)
        for items in self._items():
            kept = self._journal.lengths(str(items.first))
            if kept is None:
                todo.append((items.first, items))
            else:
                self._take_lengths(kept)
                done += len(items.numbers)
        for first, findings in run_jobs(self._worker, todo, self._processes):
            self._journal.add(str(first), findings)
            self._take_lengths(findings)
            done = min(done + _ITEMS, total)
            progress(TOKENISING, done, total)

    def _take_lengths(self, findings: LengthFindings) -> None:
        report = self._found.report
        report.longest = max(report.longest or 0, findings.longest)
        self._found.broken_items.update({index: (kind, message) for index, kind, message in findings.broken})

    def _items(self) -> Iterator[Items]:
        positions = self._found.positions
        for first in range(0, len(positions), _ITEMS):
            selected = slice(first, first + _ITEMS)
            if isinstance(self._samples, LlavaSamples):
                numbers, starts, sizes = (column[selected].tolist() for column in self._samples.columns)
                yield Items(first, numbers, starts, sizes)
            else:
                yield Items(first, positions[selected].tolist())


def journal_beside(path: Path) -> Path:
    """Return where a full check keeps its journal: a hidden file beside the data set."""
    return path.parent / f".{path.name}.check.jsonl"


def _request(source: DataRecipe, limit: LengthLimit | None, full: FullCheck) -> dict[str, Any]:
    """Return what a full check's findings depend on."""
    lengths = None
    if limit is not None:
        encoder = limit.encoder
        tokenizer = hashlib.sha256(encoder.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        lengths = [
            limit.max_length,
            limit.independent,
            encoder.template.name,
            encoder.image_tokens,
            tokenizer,
        ]
    return {
        "data": fingerprint(source),
        "images": str(source.images),
        "marks": source.marks,
        "transform": asdict(full.transform),
        "lengths": lengths,
        "versions": [version("olivine"), version("pillow"), version("tokenizers")],
    }
