"""Scenes as image files: JPEG or PNG, the same bytes with one process or many.

Rendering is in `drawing`.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from olivine.available_cpus import available_cpus
from olivine.files import write_json_lines
from olivine.world.drawing import image
from olivine.world.scene import Scene

#: Fewer images than this are drawn faster than other processes start.
_WORTH_STARTING = 1500
_CHUNK = 64


def save(scene: Scene, path: Path) -> None:
    """Draw a scene into a file: PNG, or JPEG of quality 95 without chroma subsampling, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        image(scene).save(path)
    else:
        image(scene).save(path, quality=95, subsampling=0)


def save_all(
    scenes: Mapping[Path, Scene],
    *,
    processes: int | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> None:
    """Draw every scene into its file.

    Args:
        processes: number of processes; by default one per CPU for many images, otherwise only this one.
        on_image: called with (done, total).
    """
    jobs = list(scenes.items())
    workers = processes or (available_cpus() if len(jobs) >= _WORTH_STARTING else 1)
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    done = 0
    for count in _saved(chunks, workers):
        done += count
        if on_image is not None:
            on_image(done, len(jobs))


def save_with_truth(folder: Path, scenes: Mapping[str, Scene]) -> None:
    """Draw every scene into `folder` under its name, and write its ground truth to `scenes.jsonl`.

    Each line of that file is `{"image": name, "scene": Scene.to_dict()}`.
    """
    save_all({folder / name: scene for name, scene in scenes.items()})
    write_json_lines(
        folder / "scenes.jsonl", ({"image": name, "scene": scene.to_dict()} for name, scene in scenes.items())
    )


_Job = tuple[Path, Scene]


def _saved(chunks: Sequence[Sequence[_Job]], processes: int) -> Iterable[int]:
    if processes == 1:
        yield from map(_save_chunk, chunks)
        return
    # Threads may be running (a progress bar): a fork could copy one of their locks.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_save_chunk, chunks)


def _save_chunk(jobs: Sequence[_Job]) -> int:
    for path, scene in jobs:
        save(scene, path)
    return len(jobs)
