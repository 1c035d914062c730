"""All backbones, each with its schedule, trained in parallel processes.

The training of each is in its own module; their location in the package is in `world.backbones`.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from olivine.available_cpus import available_cpus, end_with_parent
from olivine.errors import RunError
from olivine.files import read_json
from olivine.world.backbones import shipped
from olivine.world.pretraining.clip import ClipPretraining
from olivine.world.pretraining.curriculum import Schedule
from olivine.world.pretraining.dinov2 import Dinov2Pretraining
from olivine.world.pretraining.gemma import SIZES
from olivine.world.pretraining.language import LanguagePretraining
from olivine.world.pretraining.loop import FIGURES, LOG, Pretraining, pretrain
from olivine.world.pretraining.siglip import SiglipPretraining

LARGE_VOCABULARY, SMALL_VOCABULARY = 1024, 640
_SAVE_EVERY = 100


@dataclass(frozen=True, slots=True)
class Job:
    """One backbone's training.

    Attributes:
        make: builds it from the world's seed, its share of steps, and the folder of the backbone it is expanded from.
        expanded_from: that backbone's name; empty if it starts from random weights.
    """

    make: Callable[[int, float, Path | None], Pretraining]
    expanded_from: str = ""


def _language(size: str, vocabulary: int, schedule: Schedule, expanded_from: str = "") -> Job:
    def make(seed: int, share: float, smaller: Path | None) -> Pretraining:
        before = read_json(smaller / FIGURES)["steps"] if smaller else 0
        steps, unplaced = (max(1, round(number * share)) for number in (schedule.steps, schedule.unplaced))
        plan = replace(schedule, steps=steps, unplaced=unplaced, before=before)
        return LanguagePretraining(SIZES[size], vocabulary, plan, seed, smaller=smaller)

    return Job(make, expanded_from)


_SMALL = Schedule(12000, 5e-3, unplaced=2000, restarted=2.5e-3)
_LARGE = Schedule(1600, 2e-3, unplaced=1600)
#: The steps of tiny-CLIP and tiny-DINOv2 are set so that both take the same CPU time; `figures.json` says how much they
#: took. tiny-SigLIP has a quarter of tiny-CLIP's.
JOBS: dict[str, Job] = {
    "tiny-clip": Job(lambda seed, share, _: ClipPretraining(max(1, round(12000 * share)), 80, seed, variants=2)),
    "tiny-siglip": Job(lambda seed, share, _: SiglipPretraining(max(1, round(3000 * share)), 80, seed, variants=2)),
    "tiny-dinov2": Job(lambda seed, share, _: Dinov2Pretraining(max(1, round(12000 * share)), 80, seed)),
    "tiny-gemma-s": _language("small", LARGE_VOCABULARY, _SMALL),
    "tiny-gemma-l": _language("large", LARGE_VOCABULARY, _LARGE, "tiny-gemma-s"),
    "tiny-gemma-s-pieces": _language("small", SMALL_VOCABULARY, _SMALL),
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
    """Train the named backbones that are not yet done, several at a time; return their held-out figures.

    After a kill, the same command resumes from the last training checkpoints. A backbone that is expanded from another
    waits for it if that one is named too; otherwise it uses the one in `output`, or else the shipped one.

    Args:
        names: keys of `JOBS`.
        output: a folder that gets one folder for each backbone.
        share: fraction of each one's steps, for a quick trial.
        jobs: how many at a time; 0 means one per CPU, on a GPU one after another.
        on_step: called with (name, done, total) now and then.

    Raises:
        RunError: one of them failed; the others are finished first.
    """
    waiting = [name for name in names if not (output / name / FIGURES).is_file()]
    gpu = torch.cuda.is_available()
    together = sum(JOBS[name].expanded_from not in waiting for name in waiting)
    at_once = max(1, min(jobs or (1 if gpu else available_cpus()), together))
    # Two processes of one thread each have a higher throughput than one of two threads.
    threads = max(1, available_cpus() // at_once)
    failed: dict[str, BaseException] = {}
    running: dict[str, Future[dict[str, Any]]] = {}
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        while waiting or running:
            for name in [name for name in waiting if JOBS[name].expanded_from not in (*waiting, *running)]:
                waiting.remove(name)
                if JOBS[name].expanded_from in failed:
                    continue
                smaller = _smaller(JOBS[name].expanded_from, output)
                running[name] = pool.submit(_one, name, output / name, seed, share, smaller, threads)
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


def _smaller(name: str, output: Path) -> Path | None:
    if not name:
        return None
    return output / name if (output / name / FIGURES).is_file() else shipped() / name


def _one(name: str, folder: Path, seed: int, share: float, smaller: Path | None, threads: int) -> dict[str, Any]:
    end_with_parent()
    torch.set_num_threads(threads)
    job = JOBS[name].make(seed, share, smaller)
    job.trained.to("cuda" if torch.cuda.is_available() else "cpu")
    return pretrain(job, folder, save_every=_SAVE_EVERY, on_step=lambda _done, _steps: None)


def _report(name: str, future: Future[dict[str, Any]], folder: Path, on_step: Callable[[str, int, int], None]) -> None:
    """Report the progress that the log has: nothing else passes between the processes."""
    log = folder / LOG
    if not log.is_file():
        return
    rows = log.read_text(encoding="utf-8").splitlines()
    last = json.loads(rows[-1]) if rows and rows[-1].endswith("}") else None
    if last is not None:
        on_step(name, last["steps"] if future.done() else last["step"], last["steps"])
