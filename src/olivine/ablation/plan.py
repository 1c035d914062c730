"""A study as steps that share what they share: each known by the hash of what decides its output, and by nothing else.

How a step is carried out is in `steps`; in which process, in `launch`; what it will cost, in `cost`.

Two cells whose recipes agree up to the end of a stage have that stage in common; a change of one field gives new names
to the steps that depend on it and to no others; what is on disk under a step's name is that step's output, so a study
that was killed goes on, and one that was changed reruns what the change touches.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.ablation.feature_cache import Worth, decisions, may_keep, weigh
from olivine.ablation.fingerprint import Fingerprints, digest
from olivine.ablation.study import STEPS, BenchmarkRecipe, Study
from olivine.data.features import CONTENTS
from olivine.evaluation.run import SCORES
from olivine.recipe import DataRecipe, ModelRecipe, Recipe, StageRecipe, TokenizerRecipe
from olivine.records import Control
from olivine.registry import locate
from olivine.statistics import Cell
from olivine.training.identity import CHECKPOINT, RESULT

#: Goes up whenever the code gives other outputs for the same recipe and data: old outputs are then not taken for new.
FORMAT = 2

#: Recipe sections that a step's identity names itself, or that decide nothing that is computed.
_NOT_SHARED = {"name", "output", "evaluate", "model", "data", "stages", "sharding"}
#: Stage fields that decide nothing of what a finished stage leaves: resuming gives the same bits wherever it was saved.
_FREE_OF_STAGE = {"save_every", "keep", "skip"}
#: Optimizer fields that can only stop a run.
_FREE_OF_OPTIMIZER = {"spike"}
#: Data fields that are named by what the files hold, not by where they lie.
_PATHS = {"json", "images"}


@dataclass(frozen=True, slots=True)
class FeatureStep:
    """Compute a frozen tower's features of all pictures that a stage's source shows."""

    key: str
    folder: Path
    recipe: Recipe
    stage: StageRecipe
    identity: Mapping[str, Any]
    kind = "features"
    after = None
    needs = ()

    @property
    def done(self) -> bool:
        """Whether its output is there, whole."""
        return (self.folder / CONTENTS).is_file()


@dataclass(frozen=True, slots=True)
class StageStep:
    """Train one stage, from the checkpoint of the step before or from the recipe's own parts.

    `features` is the step that keeps its tower's features, None where it runs the tower itself.
    """

    key: str
    folder: Path
    recipe: Recipe
    stage: StageRecipe
    after: str | None
    features: str | None
    identity: Mapping[str, Any]

    @property
    def needs(self) -> tuple[str, ...]:
        """The steps that must be done first."""
        return tuple(key for key in (self.features, self.after) if key is not None)

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
    def needs(self) -> tuple[str, ...]:
        """The step that must be done first."""
        return (self.after,)

    @property
    def kind(self) -> str:
        """The benchmark's name, with the control's."""
        return self.benchmark + (f"-{self.control}" if self.control else "")

    @property
    def done(self) -> bool:
        """Whether its output is there, whole."""
        return (self.folder / SCORES).is_file()


Step = FeatureStep | StageStep | EvaluateStep


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
    #: What keeping features on disk comes to, for each tower and source where it is possible.
    features: tuple[Worth, ...]

    def used_by(self, key: str) -> list[tuple[Cell, int]]:
        """The cells and seeds whose results rest on a step."""
        direct = {(cell, seed) for (cell, seed, *_), own in self.evaluations.items() if own == key}
        for used, keys in self.stages.items():
            if any(key in self.steps[stage].needs for stage in keys):
                direct.add(used)
        return [(cell, seed) for (cell, seed), keys in self.stages.items() if key in keys or (cell, seed) in direct]

    def before(self, step: Step) -> Step | None:
        """The step whose model a step takes up, None for one that begins from a recipe's own parts."""
        return self.steps[step.after] if step.after else None

    def left(self) -> list[Step]:
        """The steps that are still to be done, in order; features that nobody is left to read are not."""
        undone = [step for step in self.steps.values() if not step.done]
        needed = {key for step in undone for key in step.needs}
        return [step for step in undone if not isinstance(step, FeatureStep) or step.key in needed]


def make_plan(study: Study, fingerprints: Fingerprints | None = None) -> Plan:
    """Lay out every step of a study; nothing is run, but the data files are read to be known by their content."""
    prints = fingerprints or Fingerprints(study.directory / "fingerprints.json")
    weighed = _weighed(study, prints)
    kept = frozenset(worth.key for worth in weighed if worth.kept)
    steps: dict[str, Step] = {}
    stages: dict[tuple[Cell, int], tuple[str, ...]] = {}
    evaluations: dict[tuple[Cell, int, str, Control | None], str] = {}
    for (cell, seed), recipe in study.recipes.items():
        chain = list(_stage_steps(recipe, study.directory / STEPS, prints, kept))
        stages[cell, seed] = tuple(step.key for step in chain)
        # The first to use a step gives it its recipe; all others agree in what decides it.
        for step in chain:
            if step.features is not None and step.features not in steps:
                steps[step.features] = _feature_step(recipe, step.stage, study.directory / STEPS, prints)
            steps.setdefault(step.key, step)
        for name, asked in study.recipe.benchmarks.items():
            for control in (None, *study.recipe.controls):
                evaluation = _evaluate_step(chain[-1], name, asked, control, study.directory / STEPS, prints)
                evaluations[cell, seed, name, control] = evaluation.key
                steps.setdefault(evaluation.key, evaluation)
    if study.directory.is_dir():
        prints.remember()
    return Plan(study, steps, stages, evaluations, tuple(prints.missing), weighed)


def _weighed(study: Study, prints: Fingerprints) -> tuple[Worth, ...]:
    """What keeping features comes to, for every tower and source; trainings that cells share count once."""
    readers: dict[str, dict[str, tuple[Recipe, StageRecipe]]] = {}
    for recipe in study.recipes.values():
        for step in _stage_steps(recipe, study.directory / STEPS, prints, frozenset()):
            if may_keep(recipe, step.stage):
                key = _feature_step(recipe, step.stage, study.directory / STEPS, prints).key
                readers.setdefault(key, {})[step.key] = (recipe, step.stage)
    keep, limit = study.recipe.features, 1e9 * study.recipe.features_limit_gb
    decided = decisions(study.directory)
    return tuple(
        weigh(key, list(found.values()), keep=keep, limit=limit, decided=decided) for key, found in readers.items()
    )


def _feature_step(recipe: Recipe, stage: StageRecipe, folder: Path, prints: Fingerprints) -> FeatureStep:
    vision = _model_values(recipe.model, prints)["vision"]
    source = recipe.data[stage.data]
    identity = {
        "format": FORMAT,
        "kind": "features",
        "vision": vision | {"image_fit": stage.image_fit or recipe.model.vision.image_fit},
        "precision": recipe.optimizer.precision,
        "data": {"format": source.format, "on_error": source.on_error, **_content(source, prints)},
    }
    key = f"features-{digest(identity)}"
    return FeatureStep(key, folder / key, recipe, stage, identity)


def _stage_steps(recipe: Recipe, folder: Path, prints: Fingerprints, kept: Collection[str]) -> Iterator[StageStep]:
    shared = {k: v for k, v in recipe.model_dump(mode="json", by_alias=True).items() if k not in _NOT_SHARED}
    shared["optimizer"] = {k: v for k, v in shared["optimizer"].items() if k not in _FREE_OF_OPTIMIZER}
    before: str | None = None
    for stage in recipe.stages:
        if stage.skip:
            continue
        start = {"after": before} if before else _start(recipe, prints)
        features = _feature_step(recipe, stage, folder, prints).key if kept and may_keep(recipe, stage) else None
        features = features if features in kept else None
        identity = {
            "format": FORMAT,
            "kind": "stage",
            **start,
            "stage": _stage_values(stage),
            "data": _data_values(recipe.data[stage.data], prints),
            **shared,
            # Pictures that are encoded in other company differ in their last bits.
            **({"features": features} if features else {}),
        }
        key = f"{stage.name}-{digest(identity)}"
        yield StageStep(key, folder / key, recipe, stage, before, features, identity)
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
    return values | _content(source, prints)


def _content(source: DataRecipe, prints: Fingerprints) -> dict[str, Any]:
    return {"json": prints.of_source(source), "images": prints.of(source.images)}


def _start(recipe: Recipe, prints: Fingerprints) -> dict[str, Any]:
    """What decides the model that the first stage begins with."""
    start: dict[str, Any] = {"model": _model_values(recipe.model, prints)}
    if isinstance(recipe.model.language.tokenizer, TokenizerRecipe):
        # A trained tokenizer has read the texts of every source, in order.
        start["texts"] = [
            {"json": prints.of_source(source), "format": source.format, "on_error": source.on_error}
            for source in recipe.data.values()
        ]
    return start


def _model_values(model: ModelRecipe, prints: Fingerprints) -> dict[str, Any]:
    """The model section, with the content of local folders in place of their paths."""
    values = model.model_dump(mode="json", by_alias=True)
    for section, key in (("vision", "from"), ("language", "from"), ("language", "tokenizer")):
        values[section][key] = _of_content(values[section][key], prints)
    if values["vision"]["fused"] is not None:
        values["vision"]["fused"] = [_of_content(source, prints) for source in values["vision"]["fused"]]
    return values


def _of_content(source: Any, prints: Fingerprints) -> Any:
    """A local folder's content in place of its path; any other source as it is."""
    if not isinstance(source, str):
        return source
    folder = locate(source)
    return (
        prints.of(Path(folder).expanduser()) if folder.startswith((".", "/", "~")) or Path(folder).is_dir() else source
    )


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
        **({"options": _option_values(name, asked, prints)} if asked.options else {}),
        "control": control,
        "data": prints.of(asked.data),
        "images": prints.of(asked.images),
    }
    kind = name + (f"-{control}" if control else "")
    key = f"{kind}-{digest(identity)}"
    return EvaluateStep(key, folder / key, after.recipe, name, asked, control, after.key, identity)


def _option_values(name: str, asked: BenchmarkRecipe, prints: Fingerprints) -> dict[str, Any]:
    """A benchmark's options, with the content of files in place of their paths."""
    return dict(asked.options) | {key: prints.of(path) for key, path in asked.option_paths(name).items()}
