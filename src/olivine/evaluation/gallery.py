"""A page of example questions: pictures of written benchmarks in a strip each, what is asked of them, what is right.

For looking at; nothing is answered or scored here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from olivine.data.images import pictures_in
from olivine.evaluation.benchmarks import Benchmark
from olivine.files import atomic_file, write_text
from olivine.printable import printable
from olivine.records import Question

_SIDE = 192
_GAP = 8
_PICTURES, _QUESTIONS = 4, 2


@dataclass(frozen=True, slots=True)
class Shelf:
    """A benchmark and where its files are."""

    benchmark: Benchmark
    data: Path


def write_page(
    target: Path, title: str, opening: str, pictures: Sequence[Image.Image], shelves: Sequence[Shelf]
) -> None:
    """Write `target` (Markdown) and, in a folder of the same name without its ending, the sheets that it shows.

    Args:
        opening: what stands above the first sheet.
        pictures: shown on the first sheet, eight in a row.
        shelves: each gets a heading, a strip of four pictures, and up to two questions a picture.
    """
    folder = target.with_suffix("")
    _save(_sheet(pictures, 8), folder / "scenes.jpg")
    parts = [f"# {title}", opening, f"![scenes]({folder.name}/scenes.jpg)"]
    for shelf in shelves:
        parts += _section(shelf, folder)
    write_text(target, "\n\n".join(parts) + "\n")


def _section(shelf: Shelf, folder: Path) -> Iterator[str]:
    name = shelf.benchmark.name
    chosen = _examples(shelf.benchmark.read(shelf.data))
    pictures = pictures_in(shelf.benchmark.images(shelf.data))
    _save(_sheet([pictures.open(picture) for picture in chosen], _PICTURES), folder / f"{name}.jpg")
    yield f"## {name}"
    yield f"![{name}]({folder.name}/{name}.jpg)"
    rows = ["| picture | asked | right |", "|---|---|---|"]
    for number, questions in enumerate(chosen.values(), start=1):
        rows += [f"| {number} | {_cell(q.prompt)} | {_references(q)} |" for q in questions]
    yield "\n".join(rows)


def _examples(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Some pictures, evenly spread over the file but whole pairs of them, each with its first questions."""
    by_unit: dict[str, dict[str, list[Question]]] = {}
    for question in questions:
        if question.image is not None:
            by_unit.setdefault(question.unit, {}).setdefault(question.image, []).append(question)
    units = list(by_unit.values())
    step = max(1, len(units) * max(map(len, units)) // _PICTURES)
    chosen = [pair for unit in units[::step] for pair in unit.items()]
    return {name: asked[:_QUESTIONS] for name, asked in chosen[:_PICTURES]}


def _references(question: Question) -> str:
    counts = Counter(question.references)
    return ", ".join(f"`{text}`" + (f" ({count})" if count > 1 else "") for text, count in counts.most_common())


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


def _sheet(pictures: Sequence[Image.Image], across: int) -> Image.Image:
    rows = -(-len(pictures) // across)
    pitch = _SIDE + _GAP
    sheet = Image.new("RGB", (across * pitch - _GAP, rows * pitch - _GAP), "white")
    for place, picture in enumerate(pictures):
        left, top = place % across * pitch, place // across * pitch
        sheet.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
    return sheet


def _save(sheet: Image.Image, path: Path) -> None:
    with atomic_file(path) as temporary:
        sheet.save(temporary, "JPEG", quality=80)
