"""A page of example questions: for each benchmark a strip of images, the questions about them, and the answers.

It is for reading; nothing is answered or scored here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from olivine.data.images import image_source
from olivine.evaluation.benchmarks import Benchmark
from olivine.files import atomic_file, write_text
from olivine.printable import printable
from olivine.records import Question

_SIDE = 192
_GAP = 8
_IMAGES, _QUESTIONS = 4, 2


@dataclass(frozen=True, slots=True)
class Shelf:
    """A benchmark and where its files are."""

    benchmark: Benchmark
    data: Path


def write_page(target: Path, title: str, opening: str, images: Sequence[Image.Image], shelves: Sequence[Shelf]) -> None:
    """Write `target` (Markdown) and, in a folder of the same name without its suffix, the image sheets that it shows.

    Args:
        target: the Markdown file.
        title: its heading.
        opening: the text above the first sheet.
        images: the images of the first sheet, eight per row.
        shelves: each gets a heading, a strip of four images, and up to two questions per image.
    """
    folder = target.with_suffix("")
    _save(_sheet(images, 8), folder / "scenes.jpg")
    parts = [f"# {title}", opening, f"![scenes]({folder.name}/scenes.jpg)"]
    for shelf in shelves:
        parts += _section(shelf, folder)
    write_text(target, "\n\n".join(parts) + "\n")


def _section(shelf: Shelf, folder: Path) -> Iterator[str]:
    name = shelf.benchmark.name
    questions_read = shelf.benchmark.read(shelf.data)
    assert not any(question.images for question in questions_read), "the world's benchmarks ask about one image each"
    selected = _examples(questions_read)
    images = image_source(shelf.benchmark.images(shelf.data))
    _save(_sheet([images.open(image) for image in selected], _IMAGES), folder / f"{name}.jpg")
    yield f"## {name}"
    yield f"![{name}]({folder.name}/{name}.jpg)"
    rows = ["| image | question | answer |", "|---|---|---|"]
    for number, questions in enumerate(selected.values(), start=1):
        rows += [f"| {number} | {_cell(q.prompt)} | {_references(q)} |" for q in questions]
    yield "\n".join(rows)


def _examples(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Return some images with their first questions, evenly spaced over the file, keeping paired images together."""
    by_cluster: dict[str, dict[str, list[Question]]] = {}
    for question in questions:
        if question.image is not None:
            by_cluster.setdefault(question.cluster, {}).setdefault(question.image, []).append(question)
    clusters = list(by_cluster.values())
    step = max(1, len(clusters) * max(map(len, clusters)) // _IMAGES)
    selected = [pair for cluster in clusters[::step] for pair in cluster.items()]
    return {name: about[:_QUESTIONS] for name, about in selected[:_IMAGES]}


def _references(question: Question) -> str:
    counts = Counter(question.references)
    return ", ".join(f"`{text}`" + (f" ({count})" if count > 1 else "") for text, count in counts.most_common())


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


def _sheet(images: Sequence[Image.Image], across: int) -> Image.Image:
    rows = -(-len(images) // across)
    pitch = _SIDE + _GAP
    sheet = Image.new("RGB", (across * pitch - _GAP, rows * pitch - _GAP), "white")
    for position, image in enumerate(images):
        left, top = position % across * pitch, position // across * pitch
        sheet.paste(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
    return sheet


def _save(sheet: Image.Image, path: Path) -> None:
    with atomic_file(path) as temporary:
        sheet.save(temporary, "JPEG", quality=80)
