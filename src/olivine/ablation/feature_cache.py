"""Whether caching a frozen tower's features on disk pays: what it saves and how much disk space it takes.

How features are computed is in `training.features`; the step that computes them is defined in `plan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from olivine.ablation.study import KeepFeatures
from olivine.cost.estimate import Lengths, StageEstimate, estimate, measured_lengths, tower_operations
from olivine.errors import OlivineError
from olivine.files import read_json, write_json
from olivine.model.size import model_size
from olivine.recipe import AugmentRecipe, DataRecipe, Recipe, StageRecipe

#: File in a study's directory with the decisions made when the study was first run. Configurations or seeds added later
#: do not change them, since that would rename finished steps.
DECISIONS = "features.json"
#: Features are cached if that saves at least this share of the operations of the trainings that would read them.
BENEFIT_FACTOR = 0.1


@dataclass(frozen=True, slots=True)
class CacheBenefit:
    """What caching the features of one tower over one source's images costs and saves.

    Attributes:
        key: key of the step that would compute the features.
        what: tower, source and image fit, in readable form.
        trainings: number of stages that would read the features.
        bytes: size on disk; None if the data or the tower's configuration are unavailable.
        saved: share of those stages' operations that is saved, net of computing the features; None as above.
        kept: the decision.
    """

    key: str
    what: str
    trainings: int
    bytes: float | None
    saved: float | None
    kept: bool


def cacheable(recipe: Recipe, stage: StageRecipe) -> bool:
    """Return whether a stage reads unaugmented images through a pretrained tower that is never trained."""
    before = [s for s in recipe.stages[: recipe.stages.index(stage)] if not s.skip]
    return bool(
        (recipe.model.from_ or all(isinstance(source, str) for source in recipe.model.vision.sources))
        and stage.objective == "language"
        and not any("vision" in s.train for s in (*before, stage))
        and recipe.data[stage.data].augment == AugmentRecipe()
    )


def estimate_benefit(
    key: str,
    trainings: Sequence[tuple[Recipe, StageRecipe]],
    *,
    keep: KeepFeatures,
    limit: float,
    decided: Mapping[str, bool],
) -> CacheBenefit:
    """Decide whether to cache the features that several stages share.

    Args:
        key: key of the step that would compute the features.
        trainings: those stages, each with its recipe.
        keep: what the study asks for; `auto` keeps what saves at least `BENEFIT_FACTOR`, in at most `limit` bytes.
        decided: what was decided before, by key.
    """
    try:
        disk_bytes, saved = _disk_bytes(*trainings[0]), _saved(trainings)
    except OlivineError:
        disk_bytes, saved = None, None
    pays = disk_bytes is not None and saved is not None and disk_bytes <= limit and saved >= BENEFIT_FACTOR
    kept = decided.get(key, pays) if keep == "auto" else keep == "always"
    recipe, stage = trainings[0]
    return CacheBenefit(key, _described(recipe, stage), len(trainings), disk_bytes, saved, kept)


def _described(recipe: Recipe, stage: StageRecipe) -> str:
    if recipe.model.from_ is not None:
        towers, fit = f"tower of {recipe.model.from_}", stage.image_fit or "its own fit"
    else:
        towers = " + ".join(str(source) for source in recipe.model.vision.sources)
        fit = stage.image_fit or recipe.model.vision.image_fit
    return f"{towers} over {stage.data}, {fit}"


def decisions(directory: Path) -> dict[str, bool]:
    """Return the decisions made when a study was first run, by key."""
    path = directory / DECISIONS
    return dict(read_json(path)) if path.is_file() else {}


def remember(directory: Path, estimated: Sequence[CacheBenefit]) -> None:
    """Record the decisions, in addition to earlier ones."""
    if estimated:
        write_json(directory / DECISIONS, decisions(directory) | {benefit.key: benefit.kept for benefit in estimated})


def stage_estimate(recipe: Recipe, stage: StageRecipe, device: str, utilisation: float = 0.4) -> StageEstimate:
    """Return the estimated cost of one stage of a recipe on one device, including its tower."""
    alone = recipe.model_copy(update={"stages": (stage,)})
    lengths = lengths_of(recipe, stage)
    (made,) = estimate(alone, device, utilisation=utilisation, lengths={stage.data: lengths}).stages
    return made


def lengths_of(recipe: Recipe, stage: StageRecipe) -> Lengths:
    """Return the sample lengths of a stage's source; each source is read once for all configurations."""
    source = recipe.data[stage.data].model_dump_json(by_alias=True)
    return _lengths(source, model_size(recipe.model).patches)


@lru_cache(maxsize=64)
def _lengths(source: str, patches: int) -> Lengths:
    return measured_lengths(DataRecipe.model_validate_json(source), patches)


def _disk_bytes(recipe: Recipe, stage: StageRecipe) -> float:
    """Return the size of all features in bytes, assuming that no two samples share an image."""
    shape, lengths = model_size(recipe.model), lengths_of(recipe, stage)
    width = 2 if recipe.optimizer.precision == "bf16" else 4
    return lengths.samples * lengths.images * shape.features * shape.feature_width * width


def _saved(trainings: Sequence[tuple[Recipe, StageRecipe]]) -> float:
    made = [stage_estimate(recipe, stage, "cpu") for recipe, stage in trainings]
    tower = sum(
        one.samples * tower_operations(model_size(r.model), one.lengths)
        for one, (r, _) in zip(made, trainings, strict=True)
    )
    recipe, stage = trainings[0]
    lengths = lengths_of(recipe, stage)
    once = lengths.samples * tower_operations(model_size(recipe.model), lengths)
    return (tower - once) / sum(one.operations for one in made)
