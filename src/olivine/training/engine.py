"""One stage of a recipe, run into its folder: by `olivine train` for each stage, by a study for each of its steps.

The loop over batches is in `stage`; `run` and a study's plan decide which stages there are and where they start.
"""

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from olivine.accelerators import choose_arithmetic
from olivine.data.features import FeatureTable
from olivine.data.image_record import ImageRecord
from olivine.distributed import Processes
from olivine.files import write_json, write_text
from olivine.model import checkpoint
from olivine.model.build import build, check_buildable
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import PROVENANCE, RECIPE, Recipe, StageRecipe
from olivine.stop import StopSignal
from olivine.training import lora, tower_lora
from olivine.training.identity import CHECKPOINT, RESULT
from olivine.training.objectives import check_objective
from olivine.training.out_of_memory import out_of_memory_reported
from olivine.training.recipe_data import RecipeData
from olivine.training.sharding import whole_weights
from olivine.training.stage import Stage, StageResult
from olivine.training.starts import start_record
from olivine.training.trained_weights import load_to_train, put_trained, trained_weights, write_trained

_PACKAGES = ("olivine", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Run:
    """What the stages of one run have in common.

    Attributes:
        recipe: the whole recipe.
        data: its sources.
        console: where messages go.
        processes: this process among those of the run.
        stop: checked after every step.
        record: the images that the run has opened.
        arithmetic: the precision settings of this process, in words.
    """

    recipe: Recipe
    data: RecipeData
    console: Console
    processes: Processes
    stop: StopSignal
    record: ImageRecord
    arithmetic: Mapping[str, str]


def open_run(
    recipe: Recipe, data: RecipeData, console: Console, processes: Processes, stop: StopSignal, directory: Path
) -> Run:
    """Set this process's arithmetic and collect what the stages that run into `directory` share.

    Every process calls it: the arithmetic is a setting of the process.
    """
    arithmetic = choose_arithmetic(recipe.optimizer.precision, processes.device.type)
    if processes.device.type == "cuda":
        selected = ", ".join(f"{name} {value}" for name, value in arithmetic.items())
        console.print(selected, markup=False, highlight=False)
    return Run(recipe, data, console, processes, stop, ImageRecord(directory, processes.rank), arithmetic)


def check_model(recipe: Recipe, stages: Sequence[StageRecipe]) -> None:
    """Refuse a model that cannot be built or that one of `stages` cannot be trained on, before data are read.

    Raises:
        RequestError: what configurations and the tokenizer tell against it, with its key in the recipe.
    """
    templates = {f"stages.{stage.name}.template": stage.template for stage in stages if stage.template is not None}
    check_buildable(recipe.model, templates)


def start_model(
    recipe: Recipe, data: RecipeData, after: Path | None, stages: Sequence[StageRecipe], processes: Processes
) -> VisionLanguageModel:
    """Return the model that the first of `stages` starts from; refuse requests that one of them cannot carry out.

    Args:
        recipe: the whole recipe.
        data: its sources.
        after: the checkpoint of the stage before; None builds the recipe's own modules.
        stages: the stages that will run, the first of them from this model.
        processes: this process among those of the run.

    Raises:
        RequestError: a stage requests something that its model, its data or the number of processes does not allow.
    """
    for stage in stages:
        check_objective(stage, recipe.data[stage.data], data.samples(stage.data))
    vlm = build(recipe.model, seed=recipe.seed, texts=data.texts) if after is None else load_to_train(after)
    for stage in stages:
        if stage.lora:
            lora.check(vlm.language, stage.lora, f"stages.{stage.name}.lora", several=processes.several)
        if stage.vision_lora:
            tower_lora.check(vlm.tower, stage.vision_lora, f"stages.{stage.name}.vision_lora")
    processes.wait()  # until all have compared the recipe with the recorded one
    return vlm


def run_stage(
    run: Run,
    stage: StageRecipe,
    vlm: VisionLanguageModel,
    folder: Path,
    *,
    followed: bool,
    features: FeatureTable | None = None,
    begin: Callable[[], None] | None = None,
) -> VisionLanguageModel:
    """Train one stage into its folder, from its last training checkpoint if there is one.

    Args:
        run: what the stage shares with the other stages.
        stage: which of the recipe's stages.
        vlm: the model that it starts from, changed in place.
        folder: where its metrics, training checkpoints, result and model folder go.
        followed: whether another stage may start from what it leaves.
        features: cached features of all images of the stage's source, from its frozen tower; None runs the tower.
        begin: called by the first process once nothing can refuse the request any more; writes records.

    Returns:
        The model that the next stage starts from.
    """
    samples = run.data.samples(stage.data)
    with run.stop.deferred(), out_of_memory_reported(run.recipe, stage):
        job = Stage(vlm, run.recipe, stage, samples, folder, run.console, run.processes, run.stop, features, run.record)
        if run.processes.is_first and begin is not None:
            # Only now: a refused request must not leave a record that the corrected one is then compared with.
            begin()
        finish_stage(job, job.run(), run.data.skipped_before(stage.data), followed=followed)
    if run.processes.several and followed:  # its modules are sharded: start again from what was written
        return load_to_train(folder / CHECKPOINT)
    return vlm


def write_record(directory: Path, run: Run, data: dict[str, Any], changed: list[dict[str, Any]] | None = None) -> None:
    """Record what is run, with which versions, on which data and device.

    Args:
        directory: the directory of the run, or of a study's step.
        run: the recipe and where it runs.
        data: provenance of the sources.
        changed: the changes affecting the last bits with which the run was resumed, one entry per resumption.
    """
    start = start_record(run.recipe.model)
    about = {**_environment(run), **({"start": start} if start else {}), "data": data}
    write_text(directory / RECIPE, run.recipe.to_yaml())
    write_json(directory / PROVENANCE, {**about, **({"changes": changed} if changed else {})})


def finish_stage(job: Stage, result: StageResult, skipped_before: str, *, followed: bool) -> None:
    """Write the stage's checkpoint, then the result that marks it as done; then delete its training checkpoints.

    If another stage may follow, trained weights are also written unrounded, for it to start from.
    """
    vlm, folder, processes = job.vlm, job.folder, job.processes
    job.release()
    lora.merge(vlm.language)
    lora.merge(vlm.tower)
    unrounded = trained_weights(job.weights, vlm, processes) if followed else {}
    dtype = torch.bfloat16 if job.recipe.optimizer.precision == "bf16" else torch.float32
    if processes.several:
        vlm.cast(dtype, ("vision", "connector"))
        weights = whole_weights(vlm, dtype, processes)
    else:
        vlm.cast(dtype)
        weights = None
    if processes.is_first and dtype is not torch.float32:
        write_trained(unrounded, folder)
    if processes.is_first:
        checkpoint.save(vlm, folder / CHECKPOINT, weights=weights)
        write_json(
            folder / RESULT,
            {
                "stage": job.stage.name,
                "steps": result.steps,
                "seconds": round(result.summary.seconds, 1),
                "loss": result.summary.loss,
                "held_out_loss": result.held_out_loss,
                "skipped": result.summary.skipped,
            },
        )
    processes.wait()
    if not processes.several and dtype is not torch.float32:
        put_trained(unrounded, vlm)  # continuing now and resuming from the files give the same result
    job.checkpoints.clear()
    held_out = "" if result.held_out_loss is None else f", held-out loss {result.held_out_loss:.4f}"
    summary = result.summary
    job.console.print(
        f"stage {job.stage.name}: {result.steps:,} steps in {summary.seconds:.0f} s, "
        f"loss {summary.loss:.4f}{held_out}, "
        f"samples: {skipped_before}{summary.skipped} -> {folder / CHECKPOINT}",
        highlight=False,
    )


def _environment(run: Run) -> dict[str, Any]:
    """Return what a run's bits depend on besides its recipe and data."""
    return {
        "name": run.recipe.name,
        "seed": run.recipe.seed,
        "packages": {name: version(name) for name in _PACKAGES},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if run.processes.device.type == "cuda" else "cpu",
        "processes": run.processes.world_size,
        "threads": torch.get_num_threads(),
        **run.arithmetic,
    }
