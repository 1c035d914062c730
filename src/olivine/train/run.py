"""A whole run: the recipe's stages one after another, each leaving a checkpoint, in a directory one can go on from.

The training loop is in `stage`.
"""

import platform
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from olivine.data.features import FeatureTable
from olivine.data.image_record import ImageRecord
from olivine.data.sources import Skipped, fingerprint, read_samples, usable
from olivine.errors import RequestError
from olivine.files import full_disk_told, only_process_in, read_json, write_json, write_text
from olivine.model import checkpoint
from olivine.model.build import build
from olivine.recipe import Recipe, StageRecipe, TokenizerRecipe
from olivine.records import Sample
from olivine.train import lora
from olivine.train.processes import Processes, joined
from olivine.train.sharding import whole_weights
from olivine.train.stage import Stage, StageResult
from olivine.train.stop import StopSignal

RECIPE, PROVENANCE, CHECKPOINT, RESULT = "recipe.yaml", "provenance.json", "checkpoint", "result.json"
_PACKAGES = ("olivine", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
#: Recipe fields that may differ when a run is gone on with: they decide nothing that is written before them.
_FREE = re.compile(r"(output|evaluate|sharding)\b.*|optimizer\.spike|stages\.[^.]+\.(save_every|keep)")


def train(recipe: Recipe, console: Console) -> Path:
    """Run every stage that is not yet done; returns the last stage's checkpoint folder.

    Under torchrun every process calls this; the first alone prints and writes. SIGTERM ends the run in order.

    Raises:
        RequestError: the run directory holds another recipe's run, or its data has changed since.
        RunError: training could not go on (no labels, a loss that is not finite, a full disk).
        DataError: a broken sample under `on_error: stop`.
        Stopped: SIGTERM came, and what was done is saved.
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
    _check_same_recipe(directory, recipe)
    data = _Data(recipe, console)
    # A trained tokenizer has seen every source, whether or not a stage trains on it.
    trains_tokenizer = isinstance(recipe.model.language.tokenizer, TokenizerRecipe)
    provenance = data.provenance(set(recipe.data) if trains_tokenizer else {stage.data for stage in stages})
    _check_same_data(directory, provenance)

    finished = [stage for stage in stages if (directory / stage.name / RESULT).is_file()]
    if finished:
        last = finished[-1]
        console.print(f"stages already done: {', '.join(stage.name for stage in finished)}")
        vlm = checkpoint.load(directory / last.name / CHECKPOINT, to_train=True)
    else:
        vlm = build(recipe.model, seed=recipe.seed, texts=data.texts)
    processes.wait()  # until all have compared the recipe with the one that is there
    if processes.first:
        write_text(directory / RECIPE, recipe.to_yaml())
        write_json(directory / PROVENANCE, {**_environment(recipe, processes), "data": provenance})

    record = ImageRecord(directory, processes.rank)
    for stage in stages[len(finished) :]:
        with stop.held():
            samples, folder = data.samples(stage.data), directory / stage.name
            job = Stage(vlm, recipe, stage, samples, folder, console, processes, stop, record=record)
            _finish_stage(job, job.run())
        if processes.several:  # its parts are spread over the processes: begin again from what was written
            vlm = checkpoint.load(directory / stage.name / CHECKPOINT, to_train=True)
    return directory / stages[-1].name / CHECKPOINT


def train_stage(
    recipe: Recipe,
    stage: StageRecipe,
    after: Path | None,
    folder: Path,
    console: Console,
    features: FeatureTable | None = None,
) -> Path:
    """Run one stage of a recipe into a folder of its own; goes on from where a kill stopped it.

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
    if after is None:
        vlm = build(recipe.model, seed=recipe.seed, texts=data.texts)
    else:
        vlm = checkpoint.load(after, to_train=True)
    write_text(folder / RECIPE, recipe.to_yaml())
    write_json(folder / PROVENANCE, {**_environment(recipe, alone), "data": data.provenance({stage.data})})
    with StopSignal() as stop, stop.held():
        record = ImageRecord(folder)
        job = Stage(vlm, recipe, stage, data.samples(stage.data), folder, console, alone, stop, features, record)
        _finish_stage(job, job.run())
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
        values = yaml.safe_load((path / RECIPE).read_text(encoding="utf-8"))
        names = [stage["name"] for stage in values["stages"] if not stage["skip"]]
        if (path / names[-1] / RESULT).is_file():
            return path / names[-1] / CHECKPOINT
        raise RequestError(
            f"{path}: the run is not finished (stage {names[-1]} has no checkpoint). Train it to its end."
        )
    raise RequestError(f"{path}: neither a checkpoint nor a run directory. Expected what `olivine train` wrote.")


def recorded_benchmarks(path: Path) -> list[str]:
    """The benchmarks that a run's recipe names; none for a bare checkpoint."""
    file = path / RECIPE
    return list(yaml.safe_load(file.read_text(encoding="utf-8"))["evaluate"]) if file.is_file() else []


def _finish_stage(job: Stage, result: StageResult) -> None:
    """Write the stage's checkpoint, then what says that it is done; then its resume points go."""
    vlm, folder, processes = job.vlm, job.folder, job.processes
    job.release()
    lora.merge(vlm.language)
    # The weights are rounded to what the checkpoint holds, so that going on from it and going on now are the same.
    dtype = torch.bfloat16 if job.recipe.optimizer.precision == "bf16" else torch.float32
    if processes.several:
        vlm.cast(dtype, ("vision", "connector"))
        weights = whole_weights(vlm, dtype, processes)
    else:
        vlm.cast(dtype)
        weights = None
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
    job.points.clear()
    held_out = "" if result.held_out_loss is None else f", held-out loss {result.held_out_loss:.4f}"
    told = result.told
    job.console.print(
        f"stage {job.stage.name}: {result.steps:,} steps in {told.seconds:.0f} s, loss {told.loss:.4f}{held_out}, "
        f"samples: {told.skipped} -> {folder / CHECKPOINT}",
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
            self._samples[name] = read_samples(self._recipe.data[name], self._skipped[name])
            count, path = len(self._samples[name]), self._recipe.data[name].json_
            self._console.print(
                f"data {name}: {count:,} samples, {self._skipped[name].describe()} <- {path}", highlight=False
            )
        return self._samples[name]

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
            }
            for name in sorted(names)
        }


def _environment(recipe: Recipe, processes: Processes) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "packages": {name: version(name) for name in _PACKAGES},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if processes.device.type == "cuda" else "cpu",
        "processes": processes.world,
        "threads": torch.get_num_threads(),
    }


def _check_same_recipe(directory: Path, recipe: Recipe) -> None:
    path = directory / RECIPE
    if not path.is_file():
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    now = yaml.safe_load(recipe.to_yaml())
    different = sorted(key for key in _differences(before, now, "") if not _FREE.fullmatch(key))
    if different:
        raise RequestError(
            f"{directory} holds a run of another recipe; different: {', '.join(different)}. "
            "Give another output=DIR, or remove that directory to start anew."
        )


def _differences(before: Any, now: Any, where: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            name = old.get("name", index) if isinstance(old, dict) else index
            yield from _differences(old, new, f"{where}.{name}")
    elif before != now:
        yield where


def _check_same_data(directory: Path, provenance: dict[str, Any]) -> None:
    path = directory / PROVENANCE
    if not path.is_file():
        return
    for name, before in read_json(path)["data"].items():
        now = provenance.get(name)
        if now is not None and now["sha256"] != before["sha256"]:
            raise RequestError(
                f"data.{name}: {now['json']} has changed since this run began, so going on would mix two data sets. "
                "Put the old file back, or give another output=DIR."
            )
