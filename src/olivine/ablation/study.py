"""A study: a base recipe, named axes of changes, seeds, benchmarks and controls; and its configurations' recipes.

The steps that they require are in `plan`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from olivine.errors import RequestError, unknown_name
from olivine.evaluation import benchmarks as known_benchmarks
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.options import checked_options
from olivine.evaluation.rule_judge import RuleJudge
from olivine.field_identity import IdentifiedSection, another_output, same_bits
from olivine.recipe import Recipe, change, from_values, read_values
from olivine.records import Control
from olivine.schema_mistakes import explain
from olivine.statistics import Configuration, aliased, all_configurations, half_fraction, one_at_a_time
from olivine.strict_yaml import read_yaml

#: In a study's directory: the study and its base recipe as they were run, and the folder of its steps.
STUDY, BASE, STEPS = "study.yaml", "base.yaml", "steps"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _as_name(value: Any) -> Any:
    """Undo YAML's reading of a bare yes, no, on, off or number, where a name was meant."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int | float) else value


def _as_names(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    named = {_as_name(key): entry for key, entry in value.items()}
    if len(named) < len(value):
        raise ValueError("two keys are the same name, written in two ways (yes and 'yes', 1 and '1')")
    return named


def _as_levels(value: Any) -> Any:
    named = _as_names(value)
    return {name: entry or {} for name, entry in named.items()} if isinstance(named, dict) else value


def _as_data(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: {"data": entry} if isinstance(entry, str) else entry for name, entry in value.items()}


#: Whether a frozen tower's features are cached on disk: where that pays, always, or never.
KeepFeatures = Literal["auto", "always", "never"]
#: Dotted recipe keys and their values.
Changes = dict[str, Any]
_Name = Annotated[str, BeforeValidator(_as_name), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class BenchmarkRecipe(IdentifiedSection):
    """A benchmark's official files, prompt and scoring; a path alone is short for `{data: PATH}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    data: Annotated[Path, same_bits("where its files are; they are identified by their content")]
    images: Annotated[Path | None, same_bits("where images are; they are identified by their content")] = None
    prompt: Annotated[str | None, another_output("how questions are worded")] = None
    variant: Annotated[str | None, another_output("how answers are scored")] = None
    #: What grades open answers (MM-Vet): `rule` needs no endpoint; the scores name it.
    judge: Annotated[Literal["rule"] | None, another_output("what grades answers")] = None
    #: Benchmark-specific options (`olivine score NAME --help` lists them).
    options: Annotated[dict[str, str | int], another_output("what is asked and how it is scored")] = {}  # noqa: RUF012

    def opened(self, name: str) -> Benchmark:
        """Return the benchmark itself, with its judge and options.

        Raises:
            RequestError: it has no such option, or a value has the wrong type.
        """
        options = checked_options(known_benchmarks.find(name), self.options, f"benchmarks.{name}.options")
        return known_benchmarks.get(name, **options, **({"judge": RuleJudge()} if self.judge == "rule" else {}))

    def option_paths(self, name: str) -> dict[str, Path]:
        """Return the options that are paths."""
        options = checked_options(known_benchmarks.find(name), self.options, f"benchmarks.{name}.options")
        return {key: value for key, value in options.items() if isinstance(value, Path)}


class ResourcesRecipe(_Section):
    """The resources that one step requests from a launcher that manages several machines."""

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0


class StudyRecipe(_Section):
    """The study's YAML."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    #: The study's question, in one line.
    title: str = ""
    #: The recipe that configurations change, relative to the study's file.
    base: Path
    #: Changes for every configuration, before those of its levels.
    overrides: Changes = {}
    #: axis -> level -> changes. The first level of an axis is the baseline that the others are compared with.
    axes: Annotated[
        dict[_Name, Annotated[dict[_Name, Changes], BeforeValidator(_as_levels), Field(min_length=2)]],
        BeforeValidator(_as_names),
        Field(min_length=1),
    ]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)] = (0,)
    benchmarks: Annotated[dict[str, BenchmarkRecipe], BeforeValidator(_as_data), Field(min_length=1)]
    controls: tuple[Control, ...] = ("blind",)
    #: Which configurations: all; the baseline and every single change to it; or a half-fraction of a two-level design.
    grid: Literal["full", "one-at-a-time", "half"] = "full"
    #: Configurations to exclude: all that match every axis named in one of these entries.
    exclude: tuple[
        Annotated[dict[_Name, Annotated[str, BeforeValidator(_as_name)]], BeforeValidator(_as_names)], ...
    ] = ()
    #: What headlines call a change: `align: {"no": Skipping the connector's pretraining}`.
    say: Annotated[
        dict[_Name, Annotated[dict[_Name, str], BeforeValidator(_as_levels)]], BeforeValidator(_as_names)
    ] = {}
    resources: ResourcesRecipe = ResourcesRecipe()
    #: Whether features of towers that never train are computed once and cached on disk for all trainings on the same
    #: images: `auto` if that saves a tenth of their operations and takes no more disk space than the limit.
    features: KeepFeatures = "auto"
    features_limit_gb: Annotated[float, Field(gt=0)] = 50.0
    #: The study's directory; None is runs/NAME.
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """A checked study, with the recipe of every configuration and seed."""

    recipe: StudyRecipe
    configurations: tuple[Configuration, ...]
    recipes: Mapping[tuple[Configuration, int], Recipe]
    #: The caller's changes to every configuration.
    overrides: Mapping[str, Any]
    #: Where all output of the study is written.
    directory: Path

    @property
    def name(self) -> str:
        """The study's name."""
        return self.recipe.name

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The levels of each axis, the baseline first."""
        return {axis: tuple(levels) for axis, levels in self.recipe.axes.items()}

    def to_yaml(self) -> str:
        """Return the study as YAML, with every default stated."""
        values = self.recipe.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)

    def configuration_name(self, configuration: Configuration) -> str:
        """Return a configuration in readable form: `vision=clip, align=no`."""
        return ", ".join(f"{axis}={level}" for axis, level in zip(self.axes, configuration, strict=True))

    def phrase(self, axis: str, level: str) -> str:
        """Return the phrase for a change from an axis's baseline level to another."""
        phrase = self.recipe.say.get(axis, {}).get(level)
        return phrase or f"{axis}: {level} instead of {self.axes[axis][0]}"


def load_study(path: Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read a study and the recipes of all its configurations.

    `overrides` are changes to every configuration that take precedence over the study's own (shorter stages, say).

    Raises:
        RequestError: no such file, not YAML, an unknown key, axis, level or benchmark (with the nearest valid name), a
            configuration whose recipe is not valid, or effects that are aliased in the selected configurations.
    """
    recipe = _read(path)
    axes = {axis: tuple(levels) for axis, levels in recipe.axes.items()}
    _check_names(path, recipe, axes)
    configurations = tuple(
        configuration for configuration in _grid(path, recipe, axes) if not _excluded(recipe, axes, configuration)
    )
    mixed = aliased(axes, configurations)
    if mixed:
        raise RequestError(
            f"{path}: with these {len(configurations)} configurations the effect of {', '.join(mixed)} is aliased: it "
            "cannot be told from another's. Take more configurations: grid: full, or fewer entries under exclude."
        )
    base = recipe.base if recipe.base.is_absolute() else path.parent / recipe.base
    recipes = {
        (configuration, seed): _configuration_recipe(path, base, recipe, axes, configuration, seed, overrides or {})
        for configuration in configurations
        for seed in recipe.seeds
    }
    directory = path.parent if is_kept(path) else recipe.output or Path("runs") / recipe.name
    return Study(recipe, configurations, recipes, overrides or {}, directory)


def is_kept(path: Path) -> bool:
    """Return whether a study's file is the copy saved in a study's own directory, which is then the study's directory.

    The path given always decides: a directory that was moved or copied no longer belongs to the original study.
    """
    return path.name == STUDY and (path.parent / BASE).is_file() and (path.parent / STEPS).is_dir()


def _read(path: Path) -> StudyRecipe:
    values = read_yaml(path, "study")
    if not isinstance(values, dict):
        found = "the file is empty" if values is None else f"it holds a {type(values).__name__}"
        raise RequestError(f"{path}: {found}; expected a mapping with keys such as name, base, axes and benchmarks.")
    try:
        return StudyRecipe.model_validate(values)
    except ValidationError as error:
        raise RequestError(f"{path}: not a valid study.\n" + explain(error, values, StudyRecipe)) from None


def _check_names(path: Path, recipe: StudyRecipe, axes: Mapping[str, Sequence[str]]) -> None:
    for name in recipe.benchmarks:
        if name not in known_benchmarks.names():
            raise RequestError(f"{path}: benchmarks: {unknown_name(name, known_benchmarks.names())}")
        try:
            recipe.benchmarks[name].opened(name)
        except RequestError as error:
            raise RequestError(f"{path}: {error}") from None
    for where, named in _named(recipe):
        for axis, level in named:
            if axis not in axes:
                raise RequestError(f"{path}: {where}: {unknown_name(axis, axes)}")
            if level not in axes[axis]:
                raise RequestError(f"{path}: {where}.{axis}: {unknown_name(level, axes[axis])}")
    if len(set(recipe.seeds)) != len(recipe.seeds):
        raise RequestError(f"{path}: seeds: {list(recipe.seeds)} has a duplicate; each training counts once.")


def _named(recipe: StudyRecipe) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for number, entry in enumerate(recipe.exclude):
        yield f"exclude.{number}", list(entry.items())
    for axis, phrases in recipe.say.items():
        yield "say", [(axis, level) for level in phrases]


def _grid(path: Path, recipe: StudyRecipe, axes: Mapping[str, Sequence[str]]) -> list[Configuration]:
    if recipe.grid == "full":
        return all_configurations(axes)
    if recipe.grid == "one-at-a-time":
        return one_at_a_time(axes)
    if any(len(levels) != 2 for levels in axes.values()) or len(axes) < 3:
        raise RequestError(
            f"{path}: grid: half needs three or more axes with two levels each; use one-at-a-time or full."
        )
    return half_fraction(axes)


def _excluded(recipe: StudyRecipe, axes: Mapping[str, Sequence[str]], configuration: Configuration) -> bool:
    at = dict(zip(axes, configuration, strict=True))
    return any(all(at[axis] == level for axis, level in entry.items()) for entry in recipe.exclude)


def _configuration_recipe(
    path: Path,
    base: Path,
    study: StudyRecipe,
    axes: Mapping[str, Sequence[str]],
    configuration: Configuration,
    seed: int,
    overrides: Mapping[str, Any],
) -> Recipe:
    values = read_values(base)
    for key, value in study.overrides.items():
        change(values, key, value, f"{path}: overrides")
    for axis, level in zip(axes, configuration, strict=True):
        for key, value in study.axes[axis][level].items():
            change(values, key, value, f"{path}: axes.{axis}.{level}")
    for key, value in overrides.items():
        change(values, key, value, "override")
    values |= {"name": "-".join((study.name, *configuration)), "seed": seed}
    where = ", ".join(f"{axis}={level}" for axis, level in zip(axes, configuration, strict=True))
    recipe = from_values(values, where=f"{path}: the recipe of configuration {where}")
    if all(stage.skip for stage in recipe.stages):
        raise RequestError(f"{path}: configuration {where}: every stage is skipped, so nothing would be trained.")
    return recipe
