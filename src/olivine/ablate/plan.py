"""A study as steps that share what they share: each known by the hash of what decides its output, and by nothing else.

How a step is carried out is in `steps`; in which process, in `launch`; what it will cost, in `cost`.

Two cells whose recipes agree up to the end of a stage have that stage in common; a change of one field gives new names
to the steps that depend on it and to no others; what is on disk under a step's name is that step's output, so a study
that was killed goes on, and one that was changed reruns what the change touches.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.ablate.design import Cell
from olivine.ablate.fingerprint import Fingerprints, digest
from olivine.ablate.study import BenchmarkRecipe, Study
from olivine.evaluate.run import SCORES, Control
from olivine.recipe import DataRecipe, ModelRecipe, Recipe, StageRecipe, TokenizerRecipe
from olivine.train.run import CHECKPOINT, RESULT
from olivine.world.backbones import located

#: Goes up whenever the code gives other outputs for the same recipe and data: old outputs are then not taken for new.
FORMAT = 1
STEPS = "steps"

#: Recipe sections that a step's identity names itself, or that decide nothing that is computed.
_NOT_SHARED = {"name", "output", "evaluate", "model", "data", "stages", "sharding"}
#: Stage fields that decide nothing of what a finished stage leaves: resuming gives the same bits wherever it was saved.
_FREE_OF_STAGE = {"save_every", "keep", "skip"}
#: Optimizer fields that can only stop a run.
_FREE_OF_OPTIMIZER = {"spike"}
#: Data fields that are named by what the files hold, not by where they lie.
_PATHS = {"json", "images"}


@dataclass(frozen=True, slots=True)
class StageStep:
    """Train one stage, from the checkpoint of the step before or from the recipe's own parts."""

    key: str
    folder: Path
    recipe: Recipe
    stage: StageRecipe
    after: str | None
    identity: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def checkpoint(self) -> Path:
        """Where the trained model will be."""
        return self.folder / CHECKPOINT

    @property
    def done(self) -> bool:
        """Whether its output is there, whole."""
        return (self.folder / RESULT).is_file()


@dataclass(frozen=True, slots=True)
class EvaluateStep:
    """Ask one benchmark of the model that the step before left."""

    key: str
    folder: Path
    recipe: Recipe
    benchmark: str
    asked: BenchmarkRecipe
    control: Control | None
    after: str
    identity: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The benchmark's name, with the control's."""
        return self.benchmark + (f"-{self.control}" if self.control else "")

    @property
    def done(self) -> bool:
        """Whether its output is there, whole."""
        return (self.folder / SCORES).is_file()


Step = StageStep | EvaluateStep


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a study, each after what it needs; which cells and seeds use them; what data are missing."""

    study: Study
    steps: Mapping[str, Step]
    #: (cell, seed) -> keys of its stage steps in order.
    stages: Mapping[tuple[Cell, int], tuple[str, ...]]
    #: (cell, seed, benchmark, control) -> key.
    evaluations: Mapping[tuple[Cell, int, str, Control | None], str]
    missing: tuple[Path, ...]

    def used_by(self, key: str) -> list[tuple[Cell, int]]:
        """The cells and seeds whose results rest on a step."""
        direct = {(cell, seed) for (cell, seed, *_), own in self.evaluations.items() if own == key}
        return [(cell, seed) for (cell, seed), keys in self.stages.items() if key in keys or (cell, seed) in direct]

    def left(self) -> list[Step]:
        """The steps that are still to be done, in order."""
        return [step for step in self.steps.values() if not step.done]


def make_plan(study: Study, fingerprints: Fingerprints | None = None) -> Plan:
    """Lay out every step of a study; nothing is run, but the data files are read to be known by their content."""
    prints = fingerprints or Fingerprints(study.directory / "fingerprints.json")
    steps: dict[str, Step] = {}
    stages: dict[tuple[Cell, int], tuple[str, ...]] = {}
    evaluations: dict[tuple[Cell, int, str, Control | None], str] = {}
    for (cell, seed), recipe in study.recipes.items():
        chain = list(_stage_steps(recipe, study.directory / STEPS, prints))
        stages[cell, seed] = tuple(step.key for step in chain)
        # The first to use a step gives it its recipe; all others agree in what decides it.
        steps |= {step.key: step for step in chain if step.key not in steps}
        for name, asked in study.recipe.benchmarks.items():
            for control in (None, *study.recipe.controls):
                evaluation = _evaluate_step(chain[-1], name, asked, control, study.directory / STEPS, prints)
                evaluations[cell, seed, name, control] = evaluation.key
                steps.setdefault(evaluation.key, evaluation)
    if study.directory.is_dir():
        prints.remember()
    return Plan(study, steps, stages, evaluations, tuple(prints.missing))


def _stage_steps(recipe: Recipe, folder: Path, prints: Fingerprints) -> Iterator[StageStep]:
    shared = {k: v for k, v in recipe.model_dump(mode="json", by_alias=True).items() if k not in _NOT_SHARED}
    shared["optimizer"] = {k: v for k, v in shared["optimizer"].items() if k not in _FREE_OF_OPTIMIZER}
    before: str | None = None
    for stage in recipe.stages:
        if stage.skip:
            continue
        start = {"after": before} if before else _start(recipe, prints)
        identity = {
            "format": FORMAT,
            "kind": "stage",
            **start,
            "stage": _stage_values(stage),
            "data": _data_values(recipe.data[stage.data], prints),
            **shared,
        }
        key = f"{stage.name}-{digest(identity)}"
        yield StageStep(key, folder / key, recipe, stage, before, identity)
        before = key


def _stage_values(stage: StageRecipe) -> dict[str, Any]:
    values = stage.model_dump(mode="json", by_alias=True)
    for name in _FREE_OF_STAGE:
        values.pop(name)
    if stage.steps is not None:
        values.pop("epochs")  # a number of steps takes its place
    return values


def _data_values(source: DataRecipe, prints: Fingerprints) -> dict[str, Any]:
    values = {k: v for k, v in source.model_dump(mode="json", by_alias=True).items() if k not in _PATHS}
    return values | {"json": prints.of(source.json_), "images": prints.of(source.images)}


def _start(recipe: Recipe, prints: Fingerprints) -> dict[str, Any]:
    """What decides the model that the first stage begins with."""
    start: dict[str, Any] = {"model": _model_values(recipe.model, prints)}
    if isinstance(recipe.model.language.tokenizer, TokenizerRecipe):
        # A trained tokenizer has read the texts of every source, in order.
        start["texts"] = [
            {"json": prints.of(source.json_), "format": source.format, "on_error": source.on_error}
            for source in recipe.data.values()
        ]
    return start


def _model_values(model: ModelRecipe, prints: Fingerprints) -> dict[str, Any]:
    """The model section, with the content of local folders in place of their paths."""
    values = model.model_dump(mode="json", by_alias=True)
    for section, key in (("vision", "from"), ("language", "from"), ("language", "tokenizer")):
        source = values[section][key]
        if isinstance(source, str):
            source = located(source)
        if isinstance(source, str) and (source.startswith((".", "/", "~")) or Path(source).is_dir()):
            values[section][key] = prints.of(Path(source).expanduser())
    return values


def _evaluate_step(
    after: StageStep, name: str, asked: BenchmarkRecipe, control: Control | None, folder: Path, prints: Fingerprints
) -> EvaluateStep:
    identity = {
        "format": FORMAT,
        "kind": "evaluate",
        "after": after.key,
        "benchmark": name,
        "prompt": asked.prompt,
        "variant": asked.variant,
        **({"judge": asked.judge} if asked.judge else {}),
        "control": control,
        "data": prints.of(asked.data),
        "images": prints.of(asked.images),
    }
    kind = name + (f"-{control}" if control else "")
    key = f"{kind}-{digest(identity)}"
    return EvaluateStep(key, folder / key, after.recipe, name, asked, control, after.key, identity)
