"""Carry out one step of a plan: features, a stage, or a benchmark; finished work is not repeated.

Order, retries and processes are in `launch`.
"""

import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from olivine import __version__
from olivine.ablation.plan import EvaluateStep, FeatureStep, StageStep, Step
from olivine.data.features import FeatureTable
from olivine.errors import RunError
from olivine.evaluation.run import Evaluation, evaluate
from olivine.files import full_disk_reported, write_json
from olivine.locks import exclusive_lock
from olivine.model.checkpoint import load
from olivine.model.vlm import VisionLanguageModel
from olivine.training.features import compute_features
from olivine.training.run import train_stage

#: File beside a step's output: the step's complete identity.
IDENTITY = "step.json"
#: File with the duration of an evaluation or of computing features; training records its own.
TIMING = "timing.json"


class Worker:
    """Carries out steps, one at a time; keeps the last model loaded, since it usually runs several benchmarks."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._loaded: tuple[Path, VisionLanguageModel] | None = None

    def run(self, step: Step, after: Step | None, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Carry out a step whose predecessor `after` is done.

        Raises:
            OlivineError: the step failed; whatever it had finished is kept.
        """
        if step.done:
            return
        if after is not None and not after.done:
            raise RunError(f"{step.key}: the step before, {after.key}, has no finished output in {after.folder}.")
        with exclusive_lock(step.folder), full_disk_reported(step.folder):
            write_json(step.folder / IDENTITY, {"olivine": __version__, **step.identity})
            self._carry_out(step, after, on_progress or (lambda _done, _total: None))

    def _carry_out(self, step: Step, after: Step | None, on_progress: Callable[[int, int], None]) -> None:
        if isinstance(step, StageStep):
            self.release()
            checkpoint = after.checkpoint if isinstance(after, StageStep) else None
            features = FeatureTable(step.folder.parent / step.features) if step.features else None
            train_stage(step.recipe, step.stage, checkpoint, step.folder, self._console, features)
        elif isinstance(step, FeatureStep):
            self.release()
            began = time.monotonic()
            compute_features(step.recipe, step.stage, step.folder, on_progress)
            write_json(step.folder / TIMING, {"seconds": round(time.monotonic() - began, 1)})
        else:
            assert isinstance(after, StageStep), "an evaluation follows a stage"
            self._evaluate(step, after.checkpoint, on_progress)

    def release(self) -> None:
        """Release the loaded model, before another one needs the memory."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _evaluate(self, step: EvaluateStep, checkpoint: Path, on_progress: Callable[[int, int], None]) -> None:
        began = time.monotonic()
        requested = Evaluation(
            benchmark=step.settings.opened(step.benchmark),
            data=step.settings.data,
            images=step.settings.images,
            folder=step.folder,
            model_id=step.after,
            control=step.control,
            prompt=step.settings.prompt,
            variant=step.settings.variant,
            replace=True,  # the folder belongs to this step: answers to anything else are from an earlier attempt
        )
        evaluate(self._model(checkpoint), checkpoint, requested, on_progress)
        write_json(step.folder / TIMING, {"seconds": round(time.monotonic() - began, 1)})

    def _model(self, checkpoint: Path) -> VisionLanguageModel:
        if self._loaded is None or self._loaded[0] != checkpoint:
            self.release()
            vlm = load(checkpoint)
            vlm.model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            self._loaded = (checkpoint, vlm)
        return self._loaded[1]
