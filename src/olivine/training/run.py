"""A whole run: the recipe's stages one after another, each leaving a checkpoint, in a directory that can be resumed.

How one stage is run is in `engine`, its training loop in `stage`.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from olivine.console import stderr_console
from olivine.data.features import FeatureTable
from olivine.distributed import Processes, init_distributed
from olivine.errors import RequestError
from olivine.field_identity import Change
from olivine.files import full_disk_reported
from olivine.locks import exclusive_lock
from olivine.model.model_folder import find_checkpoint as find_checkpoint
from olivine.model.model_folder import recorded_benchmarks as recorded_benchmarks
from olivine.recipe import PROVENANCE, Recipe, StageRecipe
from olivine.stop import StopSignal
from olivine.training.engine import check_model, open_run, run_stage, start_model, write_record
from olivine.training.identity import CHECKPOINT, RESULT, check_same_data, check_same_recipe, recorded
from olivine.training.recipe_data import RecipeData
from olivine.training.starts import check_same_start, start_record


def train(recipe: Recipe, console: Console) -> Path:
    """Run every stage that is not yet done and return the last stage's checkpoint folder.

    Under torchrun every process calls this; only the first prints and writes. A signal (Ctrl-C, SIGTERM, SIGHUP,
    SIGUSR1) ends the run cleanly after the current step.

    Raises:
        RequestError: the run directory holds another recipe's run, or its data has changed since.
        RunError: training could not continue (no labels, a loss that is not finite, a full disk, too little memory).
        DataError: a broken sample under `on_error: stop`.
        Stopped: a signal was received; the progress is saved.
    """
    directory = recipe.run_directory
    with init_distributed() as processes, StopSignal() as stop, full_disk_reported(directory):
        if not processes.is_first:
            return _train(recipe, stderr_console(quiet=True), processes, stop)
        with exclusive_lock(directory):
            return _train(recipe, console, processes, stop)


def _train(recipe: Recipe, console: Console, processes: Processes, stop: StopSignal) -> Path:
    directory = recipe.run_directory
    stages = [stage for stage in recipe.stages if not stage.skip]
    if not stages:
        raise RequestError("stages: every stage is skipped; nothing would train.")
    changed = check_same_recipe(directory, recipe)
    finished = [stage for stage in stages if (directory / stage.name / RESULT).is_file()]
    if not finished:
        check_model(recipe, stages)
    data = RecipeData(recipe, console)
    # A trained tokenizer has seen every source, whether or not a stage trains on it.
    read = set(recipe.data) if recipe.model.trains_tokenizer else {stage.data for stage in stages}
    provenance = data.provenance(read)
    check_same_data(directory, provenance)
    check_same_start(directory, start_record(recipe.model))

    left = stages[len(finished) :]
    if finished:
        console.print(f"stages already done: {', '.join(stage.name for stage in finished)}")
    if not left:
        return directory / stages[-1].name / CHECKPOINT
    after = directory / finished[-1].name / CHECKPOINT if finished else None
    vlm = start_model(recipe, data, after, left, processes)
    run = open_run(recipe, data, console, processes, stop, directory)

    def begin() -> None:
        write_record(directory, run, provenance, _all_changes(directory, changed, console))

    for stage in left:
        vlm = run_stage(
            run,
            stage,
            vlm,
            directory / stage.name,
            followed=stage is not stages[-1],
            begin=begin if stage is left[0] else None,
        )
    return directory / stages[-1].name / CHECKPOINT


def _all_changes(directory: Path, changed: list[Change], console: Console) -> list[dict[str, Any]]:
    """Report the changes affecting the last bits with which a run is resumed; return all of them, oldest first."""
    earlier: list[dict[str, Any]] = recorded(directory).get("changes", [])
    if not changed:
        return earlier
    said = "; ".join(
        f"{change.key} {change.before} -> {change.now}, which decides {change.decides.what}" for change in changed
    )
    console.print(f"resuming with {said}; recorded in {PROVENANCE}", markup=False, highlight=False)
    return [*earlier, {change.key: {"before": change.before, "now": change.now} for change in changed}]


def train_stage(
    recipe: Recipe,
    stage: StageRecipe,
    after: Path | None,
    folder: Path,
    console: Console,
    features: FeatureTable | None = None,
) -> Path:
    """Run one stage of a recipe into its own folder, resuming if it was interrupted.

    The caller is responsible for the folder belonging to this stage of this recipe, data and parent.

    Args:
        recipe: the whole recipe.
        stage: which of its stages.
        after: the checkpoint of the stage before; None starts from the recipe's own modules.
        folder: where everything goes.
        console: where messages go.
        features: cached features of all images of the stage's source, from its frozen tower; None runs the tower.

    Returns:
        The stage's checkpoint folder.

    Raises:
        RequestError: this stage, or a later one, requests something that the model or the data do not allow.
    """
    if (folder / RESULT).is_file():
        return folder / CHECKPOINT
    data, alone = RecipeData(recipe, console), Processes()
    coming = [later for later in recipe.stages[[s.name for s in recipe.stages].index(stage.name) :] if not later.skip]
    if after is None:
        check_model(recipe, coming)
    vlm = start_model(recipe, data, after, coming, alone)
    with StopSignal() as stop:
        run = open_run(recipe, data, console, alone, stop, folder)
        # Stages are shared: whether another will follow depends on configurations that may be requested later.
        run_stage(
            run,
            stage,
            vlm,
            folder,
            followed=True,
            features=features,
            begin=lambda: write_record(folder, run, data.provenance([stage.data])),
        )
    return folder / CHECKPOINT
