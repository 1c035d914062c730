"""Whether a frozen tower's features are worth keeping on disk: what that would save, and how much room it would take.

How they are computed is in `train.features`; the step that does it is laid out in `plan`.
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

#: In a study's directory: what was decided when it was begun. More configurations or seeds later do not change it, since that
#: would rename the steps that are done.
DECISIONS = "features.json"
#: Features are kept where they save at least this share of the operations of the trainings that would read them.
BENEFIT_FACTOR = 0.1


@dataclass(frozen=True, slots=True)
class CacheBenefit:
    """What keeping the features of one tower over one source's images comes to.

    Attributes:
        key: of the step that would compute them.
        what: tower, source and fit, as people read it.
        trainings: stages that would read them.
        bytes: on disk; None where the data or the tower's configuration are not at hand.
        saved: share of those stages' operations, the computing of the features counted; None likewise.
        kept: what was decided.
    """

    key: str
    what: str
    trainings: int
    bytes: float | None
    saved: float | None
    kept: bool


def cacheable(recipe: Recipe, stage: StageRecipe) -> bool:
    """Whether a stage shows its model what a pretrained tower, never trained, makes of images as they are."""
    before = [s for s in recipe.stages[: recipe.stages.index(stage)] if not s.skip]
    return (
        all(isinstance(source, str) for source in recipe.model.vision.sources)
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
    """Decide on the features that some stages share.

    Args:
        trainings: those stages, each with its recipe.
        keep: what the study asks for; `auto` keeps what saves at least `BENEFIT_FACTOR` and takes at most `limit` bytes.
        decided: what was decided before, by key.
    """
    try:
        disk_bytes, saved = _disk_bytes(*trainings[0]), _saved(trainings)
    except OlivineError:
        disk_bytes, saved = None, None
    pays = disk_bytes is not None and saved is not None and disk_bytes <= limit and saved >= BENEFIT_FACTOR
    kept = decided.get(key, pays) if keep == "auto" else keep == "always"
    recipe, stage = trainings[0]
    fit = stage.image_fit or recipe.model.vision.image_fit
    towers = " + ".join(str(source) for source in recipe.model.vision.sources)
    return CacheBenefit(key, f"{towers} over {stage.data}, {fit}", len(trainings), disk_bytes, saved, kept)


def decisions(directory: Path) -> dict[str, bool]:
    """What was decided when a study was begun, by key."""
    path = directory / DECISIONS
    return dict(read_json(path)) if path.is_file() else {}


def remember(directory: Path, estimated: Sequence[CacheBenefit]) -> None:
    """Write down what was decided, beside what was before."""
    if estimated:
        write_json(directory / DECISIONS, decisions(directory) | {benefit.key: benefit.kept for benefit in estimated})


def stage_estimate(recipe: Recipe, stage: StageRecipe, device: str, utilisation: float = 0.4) -> StageEstimate:
    """What one stage of a recipe takes on one device, its tower included."""
    alone = recipe.model_copy(update={"stages": (stage,)})
    lengths = lengths_of(recipe, stage)
    (made,) = estimate(alone, device, utilisation=utilisation, lengths={stage.data: lengths}).stages
    return made


def lengths_of(recipe: Recipe, stage: StageRecipe) -> Lengths:
    """What the samples of a stage's source are like; a source is read once for all configurations."""
    source = recipe.data[stage.data].model_dump_json(by_alias=True)
    return _lengths(source, model_size(recipe.model).patches)


@lru_cache(maxsize=64)
def _lengths(source: str, patches: int) -> Lengths:
    return measured_lengths(DataRecipe.model_validate_json(source), patches)


def _disk_bytes(recipe: Recipe, stage: StageRecipe) -> float:
    """Bytes of the features of all images, every sample's taken for another one."""
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
