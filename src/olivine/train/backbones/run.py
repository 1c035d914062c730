"""All backbones, each with its schedule, in processes of their own beside one another.

What each learns is in its own module; where they lie in the package in `world.backbones`.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from olivine.errors import RunError
from olivine.files import read_json
from olivine.processors import cores, end_with_parent
from olivine.train.backbones.clip import ClipPretraining
from olivine.train.backbones.curriculum import Schedule
from olivine.train.backbones.dinov2 import Dinov2Pretraining
from olivine.train.backbones.gemma import SIZES
from olivine.train.backbones.language import LanguagePretraining
from olivine.train.backbones.loop import FIGURES, LOG, Pretraining, pretrain

LARGE_VOCABULARY, SMALL_VOCABULARY = 1024, 640
_SAVE_EVERY = 100


def _towers() -> dict[str, Callable[[int, float], Pretraining]]:
    # Steps are chosen so that both towers take the same processor time; `figures.json` has what they took.
    return {
        "tiny-clip": lambda seed, share: ClipPretraining(round(6000 * share), 80, seed, variants=2),
        "tiny-dinov2": lambda seed, share: Dinov2Pretraining(round(5000 * share), 80, seed),
    }


def _language(size: str, vocabulary: int, steps: int, peak: float) -> Callable[[int, float], Pretraining]:
    return lambda seed, share: LanguagePretraining(
        SIZES[size], vocabulary, Schedule(max(1, round(steps * share)), peak), seed
    )


JOBS: dict[str, Callable[[int, float], Pretraining]] = {
    **_towers(),
    "tiny-gemma-s": _language("small", LARGE_VOCABULARY, 10000, 5e-3),
    "tiny-gemma-l": _language("large", LARGE_VOCABULARY, 6000, 4e-3),
    "tiny-gemma-s-pieces": _language("small", SMALL_VOCABULARY, 10000, 5e-3),
}


def pretrain_all(
    names: Sequence[str],
    output: Path,
    *,
    seed: int = 0,
    share: float = 1.0,
    jobs: int = 0,
    on_step: Callable[[str, int, int], None],
) -> dict[str, dict[str, Any]]:
    """Train the named backbones that are not yet done, several at a time; returns their held-out figures.

    Killed at any instant, the same command goes on from the last resume points.

    Args:
        names: keys of `JOBS`.
        output: a folder that gets one folder for each.
        share: of each one's steps, for a quick look.
        jobs: how many at a time; 0 means one on each processor, on a GPU one after another.
        on_step: told (name, done, in all) now and then.

    Raises:
        RunError: one of them failed; the others go on to their end first.
    """
    waiting = [name for name in names if not (output / name / FIGURES).is_file()]
    gpu = torch.cuda.is_available()
    at_once = max(1, min(jobs or (1 if gpu else cores()), len(waiting)))
    # Two processes of one thread each do more in a second than one of two: nothing is ever waited for.
    threads = max(1, cores() // at_once)
    failed: dict[str, BaseException] = {}
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        running = {name: pool.submit(_one, name, output / name, seed, share, threads) for name in waiting}
        while running:
            time.sleep(0.5)
            for name, future in list(running.items()):
                _report(name, future, output / name, on_step)
                if future.done():
                    error = running.pop(name).exception()
                    if error is not None:
                        failed[name] = error
    if failed:
        name, error = next(iter(failed.items()))
        raise RunError(f"{name}: {error}" + (f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""))
    return {name: read_json(output / name / FIGURES) for name in names}


def _one(name: str, folder: Path, seed: int, share: float, threads: int) -> dict[str, Any]:
    end_with_parent()
    torch.set_num_threads(threads)
    job = JOBS[name](seed, share)
    job.trained.to("cuda" if torch.cuda.is_available() else "cpu")
    return pretrain(job, folder, save_every=_SAVE_EVERY, on_step=lambda _done, _steps: None)


def _report(name: str, future: Future[dict[str, Any]], folder: Path, on_step: Callable[[str, int, int], None]) -> None:
    """The log tells how far a process is: nothing else has to pass between them."""
    log = folder / LOG
    if not log.is_file():
        return
    rows = log.read_text(encoding="utf-8").splitlines()
    last = json.loads(rows[-1]) if rows and rows[-1].endswith("}") else None
    if last is not None:
        on_step(name, last["steps"] if future.done() else last["step"], last["steps"])
