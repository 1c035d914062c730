"""One step of a plan, carried out: features, a stage, or a benchmark; what is done already is not done again.

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

#: What a step is, in full; beside its output.
IDENTITY = "step.json"
#: How long an evaluation took, or features; training says so in its own result.
TIMING = "timing.json"


class Worker:
    """Carries out steps, one at a time; keeps the last model at hand, since one is mostly asked several benchmarks."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._loaded: tuple[Path, VisionLanguageModel] | None = None

    def run(self, step: Step, after: Step | None, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Carry out a step whose predecessor `after` is done.

        Raises:
            OlivineError: it could not be; whatever was finished of it is kept.
        """
        if step.done:
            return
        if after is not None and not after.done:
            raise RunError(f"{step.key}: the step before, {after.key}, left nothing in {after.folder}.")
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
            assert isinstance(after, StageStep), "an evaluation comes after a stage"
            self._evaluate(step, after.checkpoint, on_progress)

    def release(self) -> None:
        """Let go of the model at hand, before another one needs the memory."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _evaluate(self, step: EvaluateStep, checkpoint: Path, on_progress: Callable[[int, int], None]) -> None:
        began = time.monotonic()
        requested = Evaluation(
            benchmark=step.asked.opened(step.benchmark),
            data=step.asked.data,
            images=step.asked.images,
            folder=step.folder,
            model_id=step.after,
            control=step.control,
            prompt=step.asked.prompt,
            variant=step.asked.variant,
            replace=True,  # the folder is this step's own: answers to anything else are of an earlier attempt
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
