"""The eight benchmarks of the world by name, and writing them all: official files that any reader accepts.

Each has its own splits, which no training data contain. `evaluation` reads and scores them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.errors import DataError, RequestError
from olivine.files import atomic_folder, read_json, write_json
from olivine.world.benchmarks import gqa, mme, mmvet, mmvp, pope, scienceqa, textvqa, vqav2
from olivine.world.sampling import VERSION


@dataclass(frozen=True, slots=True)
class Writer:
    """Writer of a benchmark: `write(folder, seed, images)` returns the number of questions.

    `images` is the default number, for MME that of each sub-task.
    """

    write: Callable[[Path, int, int], int]
    images: int


WRITERS: dict[str, Writer] = {
    "gqa": Writer(gqa.write, 200),
    "vqav2": Writer(vqav2.write, 200),
    "pope": Writer(pope.write, 100),
    "mme": Writer(mme.write, 20),
    "mmvp": Writer(mmvp.write, 300),
    "mmvet": Writer(mmvet.write, 120),
    "scienceqa": Writer(scienceqa.write, 200),
    "textvqa": Writer(textvqa.write, 300),
}
#: The request, what was written, and the majority-class baselines, beside the benchmarks' folders.
RECORD = "world.json"

Measure = Callable[[str, Path], Mapping[str, Any]]


def write_all(
    folder: Path,
    seed: int,
    *,
    share: float = 1.0,
    measure: Measure | None = None,
    on_benchmark: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write every benchmark into `folder/NAME`; an existing one of the same request is kept.

    Each folder is written atomically. Returns what `folder/world.json` then holds:
    `{"world", "seed", "share", "benchmarks": {NAME: {"questions", "images", ...}}}`.

    Args:
        share: fraction of the default numbers of images, at least two each.
        measure: called with a benchmark's name and folder; what it returns is added to the benchmark's record.
        on_benchmark: called with (done, total).

    Raises:
        RequestError: `share` is not positive.
        DataError: `world.json` exists but is not such a record.
    """
    if share <= 0:
        raise RequestError(f"share: {share}; expected a number above 0 (1 is the default size).")
    request = {"world": VERSION, "seed": seed, "share": share}
    done = _written(folder, request)
    for number, (name, writer) in enumerate(WRITERS.items()):
        if on_benchmark is not None:
            on_benchmark(number, len(WRITERS))
        if name in done and (folder / name).is_dir():
            continue
        images = max(2, round(writer.images * share))
        with atomic_folder(folder / name) as partial_folder:
            questions = writer.write(partial_folder, seed, images)
        done[name] = {"questions": questions, "images": _images_in(folder / name)}
        if measure is not None:
            done[name] |= measure(name, folder / name)
        write_json(folder / RECORD, {**request, "benchmarks": done})
    if on_benchmark is not None:
        on_benchmark(len(WRITERS), len(WRITERS))
    return {**request, "benchmarks": done}


def _written(folder: Path, request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what an earlier call with the same request wrote."""
    if not (folder / RECORD).is_file():
        return {}
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("benchmarks"), dict):
        raise DataError(f"{folder / RECORD}: not a record of a written world. Choose another folder.")
    return dict(record["benchmarks"]) if all(record.get(key) == value for key, value in request.items()) else {}


def _images_in(folder: Path) -> int:
    with (folder / "scenes.jsonl").open(encoding="utf-8") as file:
        return sum(1 for line in file if json.loads(line))


__all__ = ["RECORD", "WRITERS", "Measure", "Writer", "write_all"]
