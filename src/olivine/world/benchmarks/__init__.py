"""The eight benchmarks of the world by name, and writing them all: official files that any reader accepts.

Each is drawn from splits of its own, which no training data show. Reading and scoring them is `evaluate`'s.
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
    """How a benchmark is written: `write(folder, seed, images)` gives the number of questions.

    `images` is the usual number, for MME that of each sub-task.
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
#: What was written, by whom asked, and how far guessing gets, beside the benchmarks' folders.
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
    """Write every benchmark into `folder/NAME`; one that is there already, of the same request, is left as it is.

    Each folder appears whole or not at all. Returns what `folder/world.json` then holds:
    `{"world", "seed", "share", "benchmarks": {NAME: {"questions", "images", ...}}}`.

    Args:
        share: of the usual numbers of images, at least two each.
        measure: is given a benchmark's name and folder; what it returns is added to the benchmark's record.
        on_benchmark: is told (done, of how many) as it goes.

    Raises:
        RequestError: `share` is not positive.
        DataError: `world.json` is there but is none of ours.
    """
    if share <= 0:
        raise RequestError(f"share: {share}; expected a number above 0 (1 is the usual size).")
    request = {"world": VERSION, "seed": seed, "share": share}
    done = _written(folder, request)
    for number, (name, writer) in enumerate(WRITERS.items()):
        if on_benchmark is not None:
            on_benchmark(number, len(WRITERS))
        if name in done and (folder / name).is_dir():
            continue
        images = max(2, round(writer.images * share))
        with atomic_folder(folder / name) as place:
            questions = writer.write(place, seed, images)
        done[name] = {"questions": questions, "images": _images_in(folder / name)}
        if measure is not None:
            done[name] |= measure(name, folder / name)
        write_json(folder / RECORD, {**request, "benchmarks": done})
    if on_benchmark is not None:
        on_benchmark(len(WRITERS), len(WRITERS))
    return {**request, "benchmarks": done}


def _written(folder: Path, request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What an earlier call with the same request wrote."""
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
