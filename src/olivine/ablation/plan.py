"""A study as a graph of shared steps, each named by the hash of what decides its output, and by nothing else.

What decides it is in `step_identity`; how a step is carried out, in `steps`; in which process, in `launch`; what it
will cost, in `step_costs`.

Two configurations whose recipes agree up to the end of a stage share that stage. A change of one field gives new names
to the steps that depend on it and to no others. What is on disk under a step's name is that step's output, so a killed
study resumes, and a changed study reruns only what the change affects.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.ablation.feature_cache import CacheBenefit, cacheable, decisions, estimate_benefit
from olivine.ablation.fingerprint import Fingerprints, digest
from olivine.ablation.step_identity import earlier_stage, evaluation_identity, feature_identity, stage_identity
from olivine.ablation.study import STEPS, BenchmarkRecipe, Study
from olivine.data.features import CONTENTS
from olivine.evaluation.run import SCORES
from olivine.recipe import Recipe, StageRecipe
from olivine.records import Control
from olivine.statistics import Configuration
from olivine.training.identity import CHECKPOINT, RESULT


@dataclass(frozen=True, slots=True)
class FeatureStep:
    """Compute a frozen tower's features of all images in a stage's data source."""

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
        """Whether its output exists and is complete."""
        return (self.folder / CONTENTS).is_file()


@dataclass(frozen=True, slots=True)
class StageStep:
    """Train one stage, from the checkpoint of the step before or from the recipe's own modules.

    `features` is the step that caches its tower's features, None if it runs the tower itself; `earlier` is the key that
    earlier versions gave the step, under which its folder may be found.
    """

    key: str
    earlier: str
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
        """Whether its output exists and is complete."""
        return (self.folder / RESULT).is_file()


@dataclass(frozen=True, slots=True)
class EvaluateStep:
    """Evaluate the model of the step before on one benchmark."""

    key: str
    folder: Path
    recipe: Recipe
    benchmark: str
    settings: BenchmarkRecipe
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
        """Whether its output exists and is complete."""
        return (self.folder / SCORES).is_file()


Step = FeatureStep | StageStep | EvaluateStep


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a study, each after those it needs, the configurations and seeds that use them, and missing data."""

    study: Study
    steps: Mapping[str, Step]
    #: (configuration, seed) -> keys of its stage steps in order.
    stages: Mapping[tuple[Configuration, int], tuple[str, ...]]
    #: (configuration, seed, benchmark, control) -> key.
    evaluations: Mapping[tuple[Configuration, int, str, Control | None], str]
    missing: tuple[Path, ...]
    #: What caching features on disk costs and saves, for each tower and source where it is possible.
    features: tuple[CacheBenefit, ...]

    def used_by(self, key: str) -> list[tuple[Configuration, int]]:
        """Return the configurations and seeds whose results depend on a step."""
        direct = {(configuration, seed) for (configuration, seed, *_), own in self.evaluations.items() if own == key}
        for used, keys in self.stages.items():
            if any(key in self.steps[stage].needs for stage in keys):
                direct.add(used)
        return [
            (configuration, seed)
            for (configuration, seed), keys in self.stages.items()
            if key in keys or (configuration, seed) in direct
        ]

    def before(self, step: Step) -> Step | None:
        """Return the step whose model a step starts from; None if it starts from the recipe's own modules."""
        return self.steps[step.after] if step.after else None

    def left(self) -> list[Step]:
        """Return the steps still to be done, in order, without features that no remaining step reads."""
        undone = [step for step in self.steps.values() if not step.done]
        needed = {key for step in undone for key in step.needs}
        return [step for step in undone if not isinstance(step, FeatureStep) or step.key in needed]


def make_plan(study: Study, fingerprints: Fingerprints | None = None) -> Plan:
    """Return the plan of a study's steps; nothing is run, but data files are read to be identified by their content."""
    prints = fingerprints or Fingerprints(study.directory / "fingerprints.json")
    estimated = _estimated(study, prints)
    kept = frozenset(benefit.key for benefit in estimated if benefit.kept)
    steps: dict[str, Step] = {}
    stages: dict[tuple[Configuration, int], tuple[str, ...]] = {}
    evaluations: dict[tuple[Configuration, int, str, Control | None], str] = {}
    for (configuration, seed), recipe in study.recipes.items():
        chain = list(_stage_steps(recipe, study.directory / STEPS, prints, kept))
        stages[configuration, seed] = tuple(step.key for step in chain)
        # A step takes the recipe of its first user; the others agree in everything that decides its output.
        for step in chain:
            if step.features is not None and step.features not in steps:
                steps[step.features] = _feature_step(recipe, step.stage, study.directory / STEPS, prints)
            steps.setdefault(step.key, step)
        for name, settings in study.recipe.benchmarks.items():
            for control in (None, *study.recipe.controls):
                evaluation = _evaluate_step(chain[-1], name, settings, control, study.directory / STEPS, prints)
                evaluations[configuration, seed, name, control] = evaluation.key
                steps.setdefault(evaluation.key, evaluation)
    if study.directory.is_dir():
        prints.remember()
    return Plan(study, steps, stages, evaluations, tuple(prints.missing), estimated)


def _estimated(study: Study, prints: Fingerprints) -> tuple[CacheBenefit, ...]:
    """Estimate the cache benefit for every tower and source; trainings that configurations share count once."""
    readers: dict[str, dict[str, tuple[Recipe, StageRecipe]]] = {}
    for recipe in study.recipes.values():
        for step in _stage_steps(recipe, study.directory / STEPS, prints, frozenset()):
            if cacheable(recipe, step.stage):
                key = _feature_step(recipe, step.stage, study.directory / STEPS, prints).key
                readers.setdefault(key, {})[step.key] = (recipe, step.stage)
    keep, limit = study.recipe.features, 1e9 * study.recipe.features_limit_gb
    decided = decisions(study.directory)
    return tuple(
        estimate_benefit(key, list(found.values()), keep=keep, limit=limit, decided=decided)
        for key, found in readers.items()
    )


def _feature_step(recipe: Recipe, stage: StageRecipe, folder: Path, prints: Fingerprints) -> FeatureStep:
    identity = feature_identity(recipe, stage, prints)
    key = f"features-{digest(identity)}"
    return FeatureStep(key, folder / key, recipe, stage, identity)


def _stage_steps(recipe: Recipe, folder: Path, prints: Fingerprints, kept: Collection[str]) -> Iterator[StageStep]:
    before: StageStep | None = None
    for stage in recipe.stages:
        if stage.skip:
            continue
        features = _feature_step(recipe, stage, folder, prints).key if kept and cacheable(recipe, stage) else None
        features = features if features in kept else None
        after, earlier_after = (before.key, before.earlier) if before else (None, None)
        identity = stage_identity(recipe, stage, after, features, prints)
        key = f"{stage.name}-{digest(identity)}"
        earlier = f"{stage.name}-{digest(earlier_stage(identity, recipe, stage, earlier_after))}"
        before = StageStep(key, earlier, _folder(folder, key, earlier), recipe, stage, after, features, identity)
        yield before


def _evaluate_step(
    after: StageStep, name: str, settings: BenchmarkRecipe, control: Control | None, folder: Path, prints: Fingerprints
) -> EvaluateStep:
    identity = evaluation_identity(after.key, name, settings, control, prints)
    kind = name + (f"-{control}" if control else "")
    key, earlier = f"{kind}-{digest(identity)}", f"{kind}-{digest(identity | {'after': after.earlier})}"
    return EvaluateStep(key, _folder(folder, key, earlier), after.recipe, name, settings, control, after.key, identity)


def _folder(root: Path, key: str, earlier: str) -> Path:
    """Return a step's folder: the one that an earlier version left under its own name, if any."""
    return root / (earlier if (root / earlier).is_dir() and not (root / key).is_dir() else key)
