"""A whole run: the recipe's stages one after another, each leaving a checkpoint, in a directory one can go on from.

The training loop is in `stage`.
"""

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from olivine.accelerators import choose_arithmetic
from olivine.data.features import FeatureTable
from olivine.data.image_record import ImageRecord
from olivine.data.sources import Skipped, fingerprint, read_samples, usable
from olivine.errors import RequestError
from olivine.files import full_disk_told, only_process_in, write_json, write_text
from olivine.model import checkpoint
from olivine.model.build import build
from olivine.recipe import PROVENANCE, RECIPE, Recipe, StageRecipe, TokenizerRecipe, read_values
from olivine.records import Sample
from olivine.stop import StopSignal
from olivine.training import lora
from olivine.training.identity import CHECKPOINT, RESULT, check_same_data, check_same_recipe, recorded
from olivine.training.out_of_memory import out_of_memory_told
from olivine.training.processes import Processes, joined
from olivine.training.sharding import whole_weights
from olivine.training.stage import Stage, StageResult
from olivine.training.trained_weights import load_to_train, put_trained, trained_weights, write_trained

_PACKAGES = ("olivine", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")


def train(recipe: Recipe, console: Console) -> Path:
    """Run every stage that is not yet done; returns the last stage's checkpoint folder.

    Under torchrun every process calls this; the first alone prints and writes. A signal (Ctrl-C, SIGTERM, SIGHUP,
    SIGUSR1) ends the run in order, within the running step.

    Raises:
        RequestError: the run directory holds another recipe's run, or its data has changed since.
        RunError: training could not go on (no labels, a loss that is not finite, a full disk, too little memory).
        DataError: a broken sample under `on_error: stop`.
        Stopped: a signal came, and what was done is saved.
    """
    directory = recipe.run_directory
    with joined() as processes, StopSignal() as stop, full_disk_told(directory):
        if not processes.first:
            return _train(recipe, Console(quiet=True), processes, stop)
        with only_process_in(directory):
            return _train(recipe, console, processes, stop)


def _train(recipe: Recipe, console: Console, processes: Processes, stop: StopSignal) -> Path:
    directory = recipe.run_directory
    stages = [stage for stage in recipe.stages if not stage.skip]
    if not stages:
        raise RequestError("stages: every stage is skipped; nothing would train.")
    changed = check_same_recipe(directory, recipe)
    data = _Data(recipe, console)
    # A trained tokenizer has seen every source, whether or not a stage trains on it.
    trains_tokenizer = isinstance(recipe.model.language.tokenizer, TokenizerRecipe)
    provenance = data.provenance(set(recipe.data) if trains_tokenizer else {stage.data for stage in stages})
    check_same_data(directory, provenance)

    finished = [stage for stage in stages if (directory / stage.name / RESULT).is_file()]
    if finished:
        last = finished[-1]
        console.print(f"stages already done: {', '.join(stage.name for stage in finished)}")
        vlm = load_to_train(directory / last.name / CHECKPOINT)
    else:
        vlm = build(recipe.model, seed=recipe.seed, texts=data.texts)
    left = stages[len(finished) :]
    for stage in left:
        if stage.lora:
            lora.check(vlm.language, stage.lora, f"stages.{stage.name}.lora", several=processes.several)
    processes.wait()  # until all have compared the recipe with the one that is there
    record = ImageRecord(directory, processes.rank)
    for stage in left:
        with stop.held(), out_of_memory_told(recipe, stage):
            samples, folder = data.samples(stage.data), directory / stage.name
            job = Stage(vlm, recipe, stage, samples, folder, console, processes, stop, record=record)
            if processes.first and stage is left[0]:
                # Only now: what is refused must not leave a record that its correction is then compared with.
                about = {**_environment(recipe, processes, console), "data": provenance}
                _record(directory, recipe, about, changed, console)
            _finish_stage(job, job.run(), data.skipped_before(stage.data), followed=stage is not stages[-1])
        if processes.several:  # its parts are spread over the processes: begin again from what was written
            vlm = load_to_train(directory / stage.name / CHECKPOINT)
    return directory / stages[-1].name / CHECKPOINT


def _record(
    directory: Path, recipe: Recipe, provenance: dict[str, Any], changed: dict[str, Any], console: Console
) -> None:
    """Write down what is run, and with which changes to the last bits it was resumed."""
    changes = recorded(directory).get("changes", [])
    if changed:
        fields = ", ".join(f"{key} {values['before']} -> {values['now']}" for key, values in changed.items())
        console.print(
            f"resuming with {fields}: the same mathematics, rounded otherwise; recorded in {PROVENANCE}",
            markup=False,
            highlight=False,
        )
        changes = [*changes, changed]
    write_text(directory / RECIPE, recipe.to_yaml())
    write_json(directory / PROVENANCE, {**provenance, **({"changes": changes} if changes else {})})


def train_stage(
    recipe: Recipe,
    stage: StageRecipe,
    after: Path | None,
    folder: Path,
    console: Console,
    features: FeatureTable | None = None,
) -> Path:
    """Run one stage of a recipe into a folder of its own; resumes where a kill stopped it.

    Whoever calls answers for the folder: that it is this stage's, of this recipe, data and parent.

    Args:
        after: the checkpoint of the stage before; None starts from the recipe's own parts.
        features: of all pictures of the stage's source, by its frozen tower; None runs the tower itself.

    Returns:
        The stage's checkpoint folder.
    """
    if (folder / RESULT).is_file():
        return folder / CHECKPOINT
    data, alone = _Data(recipe, console), Processes()
    vlm = build(recipe.model, seed=recipe.seed, texts=data.texts) if after is None else load_to_train(after)
    write_text(folder / RECIPE, recipe.to_yaml())
    write_json(folder / PROVENANCE, {**_environment(recipe, alone, console), "data": data.provenance({stage.data})})
    with StopSignal() as stop, stop.held(), out_of_memory_told(recipe, stage):
        record = ImageRecord(folder)
        job = Stage(vlm, recipe, stage, data.samples(stage.data), folder, console, alone, stop, features, record)
        # Stages are shared: whether another will follow depends on configurations that may be asked for later.
        _finish_stage(job, job.run(), data.skipped_before(stage.data), followed=True)
    return folder / CHECKPOINT


def find_checkpoint(path: Path) -> Path:
    """A checkpoint folder itself, that of a stage's directory, or the last stage's of a run directory.

    Raises:
        RequestError: none of these, or the run is not finished.
    """
    if (path / checkpoint.COMPANION).is_file():
        return path
    if (path / CHECKPOINT / checkpoint.COMPANION).is_file():
        return path / CHECKPOINT
    if (path / PROVENANCE).is_file():
        names = [stage["name"] for stage in _recorded_recipe(path)["stages"] if not stage["skip"]]
        if (path / names[-1] / RESULT).is_file():
            return path / names[-1] / CHECKPOINT
        raise RequestError(
            f"{path}: the run is not finished (stage {names[-1]} has no checkpoint). Train it to its end."
        )
    raise RequestError(f"{path}: neither a checkpoint nor a run directory. Expected what `olivine train` wrote.")


def recorded_benchmarks(path: Path) -> list[str]:
    """The benchmarks that a run's recipe names; none for a bare checkpoint."""
    return list(_recorded_recipe(path)["evaluate"]) if (path / RECIPE).is_file() else []


def _recorded_recipe(directory: Path) -> dict[str, Any]:
    values = read_values(directory / RECIPE)
    stages = values.get("stages")
    named = (
        isinstance(stages, list)
        and stages
        and all(isinstance(s, dict) and {"name", "skip"} <= s.keys() for s in stages)
    )
    if not named or not isinstance(values.get("evaluate"), list):
        raise RequestError(f"{directory / RECIPE}: not a run's record (stages or evaluate are missing); it is damaged.")
    return values


def _finish_stage(job: Stage, result: StageResult, skipped_before: str, *, followed: bool) -> None:
    """Write the stage's checkpoint, then what says that it is done; then its resume points go.

    Where another stage may follow, the weights that trained are also written unrounded, for it to start from.
    """
    vlm, folder, processes = job.vlm, job.folder, job.processes
    job.release()
    lora.merge(vlm.language)
    unrounded = trained_weights(job.weights, vlm, processes) if followed else {}
    dtype = torch.bfloat16 if job.recipe.optimizer.precision == "bf16" else torch.float32
    if processes.several:
        vlm.cast(dtype, ("vision", "connector"))
        weights = whole_weights(vlm, dtype, processes)
    else:
        vlm.cast(dtype)
        weights = None
    if processes.first and dtype is not torch.float32:
        write_trained(unrounded, folder)
    if processes.first:
        checkpoint.save(vlm, folder / CHECKPOINT, weights=weights)
        write_json(
            folder / RESULT,
            {
                "stage": job.stage.name,
                "steps": result.steps,
                "seconds": round(result.told.seconds, 1),
                "loss": result.told.loss,
                "held_out_loss": result.held_out_loss,
                "skipped": result.told.skipped,
            },
        )
    processes.wait()
    if not processes.several and dtype is not torch.float32:
        put_trained(unrounded, vlm)  # resuming now and resuming from the files are the same
    job.points.clear()
    held_out = "" if result.held_out_loss is None else f", held-out loss {result.held_out_loss:.4f}"
    told = result.told
    job.console.print(
        f"stage {job.stage.name}: {result.steps:,} steps in {told.seconds:.0f} s, loss {told.loss:.4f}{held_out}, "
        f"samples: {skipped_before}{told.skipped} -> {folder / CHECKPOINT}",
        highlight=False,
    )


class _Data:
    """The recipe's sources, each read once."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self._recipe = recipe
        self._console = console
        self._samples: dict[str, Sequence[Sample]] = {}
        self._skipped: dict[str, Skipped] = {}

    def samples(self, name: str) -> Sequence[Sample]:
        if name not in self._samples:
            self._skipped[name] = Skipped()
            path, skipped = self._recipe.data[name].json_, self._skipped[name]
            with self._console.status(f"data {name}: reading {path}") as status:

                def told(done: int, total: int) -> None:
                    status.update(f"data {name}: reading {path}, {done / max(1, total):.0%}")

                self._samples[name] = read_samples(self._recipe.data[name], skipped, told)
            count = len(self._samples[name])
            self._console.print(
                f"data {name}: {count:,} samples, {skipped.describe()} <- {path}", highlight=False, markup=False
            )
            if skipped.unread:
                self._console.print(f"data {name}: {skipped.describe_unread()}", highlight=False, markup=False)
        return self._samples[name]

    def skipped_before(self, name: str) -> str:
        """What the end line says of samples that were skipped as the source was read; empty if none were."""
        skipped = self._skipped.get(name)
        return f"{skipped.describe()} as {name} was read, then " if skipped and skipped.total else ""

    def texts(self) -> Iterator[str]:
        for name, source in self._recipe.data.items():
            for sample in usable(self.samples(name), source):
                for turn in sample.conversation:
                    yield turn.text

    def provenance(self, names: set[str]) -> dict[str, Any]:
        return {
            name: {
                "json": str(self._recipe.data[name].json_),
                "sha256": fingerprint(self._recipe.data[name]),
                "samples": len(self.samples(name)),
                "skipped": self._skipped[name].describe(),
                "skipped_examples": self._skipped[name].examples,
                "unread": dict(self._skipped[name].unread),
            }
            for name in sorted(names)
        }


def _environment(recipe: Recipe, processes: Processes, console: Console) -> dict[str, Any]:
    """Choose the arithmetic, say it, and return what a run's bits depend on besides its recipe."""
    arithmetic = choose_arithmetic(recipe.optimizer.precision, processes.device.type)
    if processes.device.type == "cuda":
        told = ", ".join(f"{name} {chosen}" for name, chosen in arithmetic.items())
        console.print(told, markup=False, highlight=False)
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "packages": {name: version(name) for name in _PACKAGES},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if processes.device.type == "cuda" else "cpu",
        "processes": processes.world,
        "threads": torch.get_num_threads(),
        **arithmetic,
    }
