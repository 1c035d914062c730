"""What decides the output of a study's steps, as plain values whose hash names the step.

The steps themselves are in `plan`. What a field decides is declared on the field (`field_identity`) and read there.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from olivine.ablation.fingerprint import Fingerprints
from olivine.ablation.study import BenchmarkRecipe
from olivine.field_identity import decisive
from olivine.model.model_folder import find_checkpoint, is_run
from olivine.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    StageRecipe,
    without_overruled,
)
from olivine.records import Control
from olivine.registry import locate

#: Increased whenever the code gives other outputs for the same recipe and data, so that old outputs are not reused.
FORMAT = 2

#: Sections that a stage's identity lists separately; and one that a step, which is a single process, never reads.
_NAMED_APART, _OF_SEVERAL_PROCESSES = ("model", "data", "stages"), ("sharding",)
#: Fields of a stage and of the optimizer that leave every bit as it is, and yet counted in the names that steps were
#: given before fields said so. Their defaults keep those names; steps with other values are found by `earlier_stage`.
_ONCE_COUNTED: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("stage", StageRecipe, "validate_every"),
    ("optimizer", OptimizerRecipe, "checkpoint_activations"),
)
#: Fields that have been renamed, with the names under which they are hashed: a new name does not change a step's
#: identity.
_FIRST_NAMES = {"sequence_tokens": "row_tokens"}
#: Keys that were added later: at their defaults, steps keep the names that they had before.
_LATER_OF_STAGE = ("loss_weights", "vision_lora")
_LATER = {"vision": ("fused", "registers", "resample"), "connector": ("factor", "queries", "options", "from")}
#: The value of a later field of a data source with which steps keep their names.
_LATER_OF_DATA, _NEVER = {"marks": "front"}, object()


def feature_identity(recipe: Recipe, stage: StageRecipe, prints: Fingerprints) -> dict[str, Any]:
    """Return what decides the features of a frozen tower over the images of a stage's source."""
    source = recipe.data[stage.data]
    return {
        "format": FORMAT,
        "kind": "features",
        "vision": _tower_values(recipe.model, prints) | ({"image_fit": stage.image_fit} if stage.image_fit else {}),
        "precision": recipe.optimizer.precision,
        "data": {"format": source.format, "on_error": source.on_error, **_content(source, prints)},
    }


def stage_identity(
    recipe: Recipe, stage: StageRecipe, after: str | None, features: str | None, prints: Fingerprints
) -> dict[str, Any]:
    """Return what decides the output of a finished stage.

    Args:
        recipe: the whole recipe.
        stage: one of its stages, which is not skipped.
        after: the name of the step that it starts from; None starts from the recipe's own modules.
        features: the name of the step whose features it reads; None runs the tower itself.
        prints: hashes of files and folders.
    """
    values = decisive(recipe)
    values = {key: value for key, value in values.items() if key not in _NAMED_APART + _OF_SEVERAL_PROCESSES}
    own = without_overruled(decisive(stage))
    own = {key: value for key, value in own.items() if key not in _LATER_OF_STAGE or value is not None}
    del own["skip"]  # a skipped stage is not a step
    own |= {first: own.pop(name) for name, first in _FIRST_NAMES.items() if name in own}
    identity = {
        "format": FORMAT,
        "kind": "stage",
        **({"after": after} if after else _start(recipe, prints)),
        "stage": own,
        "data": _data_values(recipe.data[stage.data]) | _content(recipe.data[stage.data], prints),
        **values,
        # Features of images that are encoded in different batches differ in their last bits.
        **({"features": features} if features else {}),
    }
    for section, schema, name in _ONCE_COUNTED:
        identity[section] |= {name: schema.model_fields[name].default}
    return identity


def _data_values(source: DataRecipe) -> dict[str, Any]:
    """Return the fields of a data source that decide the output, without later ones at their default."""
    return {key: value for key, value in decisive(source).items() if value != _LATER_OF_DATA.get(key, _NEVER)}


def earlier_stage(identity: dict[str, Any], recipe: Recipe, stage: StageRecipe, after: str | None) -> dict[str, Any]:
    """Return a stage's identity as in earlier versions; `after` is the name that they gave the step before."""
    earlier = {**identity, **({"after": after} if after else {})}
    for section, _, name in _ONCE_COUNTED:
        values = stage if section == "stage" else recipe.optimizer
        earlier[section] = identity[section] | {name: getattr(values, name)}
    return earlier


def evaluation_identity(
    after: str, name: str, settings: BenchmarkRecipe, control: Control | None, prints: Fingerprints
) -> dict[str, Any]:
    """Return what decides a benchmark's scores for the model of the step `after`."""
    # Unset fields count only where they always have, so that a new field does not rename existing steps.
    values = {key: value for key, value in decisive(settings).items() if value or key in ("prompt", "variant")}
    if settings.options:
        paths = {key: prints.of(path) for key, path in settings.option_paths(name).items()}
        values["options"] = dict(settings.options) | paths
    return {
        "format": FORMAT,
        "kind": "evaluate",
        "after": after,
        "benchmark": name,
        **values,
        "control": control,
        "data": prints.of(settings.data),
        "images": prints.of(settings.images),
    }


def _content(source: DataRecipe, prints: Fingerprints) -> dict[str, Any]:
    return {"json": prints.of_source(source), "images": prints.of(source.images)}


def _start(recipe: Recipe, prints: Fingerprints) -> dict[str, Any]:
    """Return what decides the model that the first stage starts from."""
    start: dict[str, Any] = {"model": _model_values(recipe.model, prints)}
    if recipe.model.trains_tokenizer:
        # A trained tokenizer has read the texts of every source, in order.
        start["texts"] = [
            {"json": prints.of_source(source), "format": source.format, "on_error": source.on_error}
            for source in recipe.data.values()
        ]
    return start


def _tower_values(model: ModelRecipe, prints: Fingerprints) -> dict[str, Any]:
    values = _model_values(model, prints)
    return values if model.from_ is not None else values["vision"]


def _model_values(model: ModelRecipe, prints: Fingerprints) -> dict[str, Any]:
    """Return the model section, with the content hashes of local folders in place of their paths."""
    if model.from_ is not None:
        return {"from": _of_content(_model_folder(model.from_), prints)}
    values = decisive(model)
    del values["from"]
    values["connector"]["from"] = _of_content(_model_folder(values["connector"]["from"]), prints)
    for section, key in (("vision", "from"), ("language", "from"), ("language", "tokenizer")):
        values[section][key] = _of_content(values[section][key], prints)
    for section, names in _LATER.items():
        for name in names:
            if values[section][name] is None:
                del values[section][name]
    if "fused" in values["vision"]:
        values["vision"]["fused"] = [_of_content(source, prints) for source in values["vision"]["fused"]]
    return values


def _model_folder(source: str | None) -> str | None:
    """Return the model folder that the directory of a run or a stage means; any other source unchanged."""
    path = Path(locate(source)).expanduser() if source is not None else None
    return str(find_checkpoint(path)) if path is not None and is_run(path) else source


def _of_content(source: Any, prints: Fingerprints) -> Any:
    """Return the hash of a local folder or file in place of its path; any other source unchanged."""
    if not isinstance(source, str):
        return source
    folder = locate(source)
    local = folder.startswith((".", "/", "~")) or Path(folder).exists()
    return prints.of(Path(folder).expanduser()) if local else source
