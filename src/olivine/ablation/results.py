"""A study's results: scores of configurations with intervals, effects, controls; and the tables of them.

The arithmetic is in `statistics`, the values behind a score in `measures`, the report in `report`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from olivine.ablation.measures import FinishedEvaluation, QuestionSource, reported, title
from olivine.ablation.plan import Plan
from olivine.errors import RunError
from olivine.evaluation.benchmarks.declaration import Metric
from olivine.files import atomic_file, write_text
from olivine.printable import csv_cell
from olivine.records import Control
from olivine.statistics import (
    Array,
    Configuration,
    Effect,
    Estimate,
    contrasts,
    corrected,
    effects,
    estimates,
    generator,
)

RESULTS, RESULTS_PARQUET, EFFECTS = "results.csv", "results.parquet", "effects.csv"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One metric of one benchmark over the whole study.

    `scores` and `controls` hold the configurations that were evaluated; `effects` use those evaluated with every seed.
    """

    benchmark: str
    measure: Metric
    headline: bool
    scores: Mapping[Configuration, Estimate]
    by_seed: Mapping[Configuration, Mapping[int, float]]
    controls: Mapping[tuple[Configuration, Control], float]
    effects: tuple[Effect, ...]

    @property
    def name(self) -> str:
        """Benchmark and metric, as written in a sentence."""
        return f"{title(self.benchmark)} {self.measure.label}"

    @property
    def column(self) -> str:
        """The name with its unit, as in the head of a table column."""
        return f"{self.name}, {self.measure.unit}"


@dataclass(frozen=True, slots=True)
class Results:
    """All results of a study so far; `unfinished` are the keys of the steps still to be done."""

    plan: Plan
    evaluations: "Evaluations"
    outcomes: tuple[Outcome, ...]
    unfinished: tuple[str, ...]

    @property
    def headlines(self) -> list[Outcome]:
        """The first metric of every benchmark."""
        return [outcome for outcome in self.outcomes if outcome.headline]


class Evaluations:
    """Every finished evaluation of a plan, each file read once."""

    def __init__(self, plan: Plan) -> None:
        sources = {
            name: QuestionSource(recipe.opened(name), recipe.data, recipe.prompt, recipe.variant)
            for name, recipe in plan.study.recipe.benchmarks.items()
        }
        self._found: dict[tuple[str, Control | None], dict[tuple[Configuration, int], FinishedEvaluation]] = {}
        read: dict[str, FinishedEvaluation] = {}
        for (configuration, seed, name, control), key in plan.evaluations.items():
            step = plan.steps[key]
            if step.done:
                if key not in read:
                    read[key] = FinishedEvaluation(step.folder, sources[name])
                self._found.setdefault((name, control), {})[configuration, seed] = read[key]

    def of(self, name: str, control: Control | None = None) -> Mapping[tuple[Configuration, int], FinishedEvaluation]:
        """Return those of a benchmark under a control, by configuration and seed, in the study's order."""
        return self._found.get((name, control), {})


def collect(plan: Plan) -> Results:
    """Measure every finished evaluation of a plan and estimate the effects.

    p-values are Holm-corrected over the study: one family is every main effect on every benchmark's first metric;
    interactions and further metrics are separate families.

    Raises:
        RunError: nothing is finished yet, or configurations were asked different questions.
    """
    evaluations = Evaluations(plan)
    found: list[Outcome] = []
    for name in plan.study.recipe.benchmarks:
        found += _benchmark(plan, evaluations, name)
    if not found:
        raise RunError(f"{plan.study.directory}: no evaluation is finished yet. Run the study: olivine ablate STUDY")
    outcomes: dict[int, Outcome] = {}
    for headline in (True, False):
        positions = [position for position, outcome in enumerate(found) if outcome.headline is headline]
        family = iter(corrected(effect for position in positions for effect in found[position].effects))
        for position in positions:
            own = tuple(next(family) for _ in found[position].effects)
            outcomes[position] = replace(found[position], effects=own)
    left = tuple(step.key for step in plan.left())
    return Results(plan, evaluations, tuple(outcomes[position] for position in range(len(found))), left)


def _benchmark(plan: Plan, evaluations: Evaluations, name: str) -> list[Outcome]:
    runs = evaluations.of(name)
    if not runs:
        return []
    shown = reported(list(runs.values()))
    return [_outcome(plan, evaluations, name, measure, position == 0) for position, measure in enumerate(shown)]


def _outcome(plan: Plan, evaluations: Evaluations, name: str, measure: Metric, headline: bool) -> Outcome:
    study, runs = plan.study, evaluations.of(name)
    clusters: tuple[str, ...] | None = None
    values: dict[tuple[Configuration, int], Array] = {}
    for (configuration, seed), run in runs.items():
        names, values[configuration, seed] = run.values(measure)
        if clusters is not None and names != clusters:
            raise RunError(
                f"{run.folder}: the questions differ from those asked of other configurations; {name} cannot be paired."
            )
        clusters = names
    # The seed comes from the content: the same answers give the same intervals, wherever and whenever computed.
    random = generator(name, measure.name, "\n".join(clusters or ()), *(v.tobytes() for v in values.values()))
    configurations = [
        configuration
        for configuration in study.configurations
        if any((configuration, seed) in runs for seed in study.recipe.seeds)
    ]
    whole = [
        configuration
        for configuration in configurations
        if all((configuration, seed) in runs for seed in study.recipe.seeds)
    ]
    scores: dict[Configuration, Estimate] = {}
    found: list[Effect] = []
    if whole:
        block = np.stack([[values[configuration, seed] for seed in study.recipe.seeds] for configuration in whole])
        scores |= dict(zip(whole, estimates(block, random), strict=True))
        if len(clusters or ()) > 1:
            found = effects(block, contrasts(study.axes, whole), random)
    for configuration in configurations:
        if configuration not in scores:
            present = np.stack(
                [values[configuration, seed] for seed in study.recipe.seeds if (configuration, seed) in runs]
            )
            (scores[configuration],) = estimates(present[None], random)
    return Outcome(
        benchmark=name,
        measure=measure,
        headline=headline,
        scores={configuration: scores[configuration] for configuration in configurations},
        by_seed={
            configuration: {
                seed: runs[configuration, seed].value(measure)
                for seed in study.recipe.seeds
                if (configuration, seed) in runs
            }
            for configuration in configurations
        },
        controls=_control_values(plan, evaluations, name, measure),
        effects=tuple(found),
    )


def _control_values(
    plan: Plan, evaluations: Evaluations, name: str, measure: Metric
) -> dict[tuple[Configuration, Control], float]:
    found: dict[tuple[Configuration, Control], list[float]] = {}
    for control in plan.study.recipe.controls:
        for (configuration, _), run in evaluations.of(name, control).items():
            found.setdefault((configuration, control), []).append(run.value(measure))
    return {key: float(np.mean(values)) for key, values in found.items()}


def write_tables(results: Results, folder: Path) -> None:
    """Write `results.csv` (every metric of every evaluation, in official units) and `effects.csv`.

    Where pyarrow is installed, `results.parquet` holds the same as `results.csv`.
    """
    table = results_csv(results)
    write_text(folder / RESULTS, table)
    _write_parquet(table, folder / RESULTS_PARQUET)
    write_text(folder / EFFECTS, effects_csv(results))


def _write_parquet(table: str, path: Path) -> None:
    try:
        from pyarrow import csv, parquet
    except ImportError:
        return  # pyarrow is an extra; the CSV is written in any case
    with atomic_file(path) as temporary:
        parquet.write_table(csv.read_csv(io.BytesIO(table.encode())), temporary)


def results_csv(results: Results) -> str:
    """Return every metric of every finished evaluation, one per row; the same answers give the same bytes."""
    study = results.plan.study
    axes = list(study.axes)
    rows: list[Sequence[object]] = [["benchmark", "metric", *axes, "seed", "control", "value", "items", "clusters"]]
    for name in study.recipe.benchmarks:
        for control in (None, *study.recipe.controls):
            for (configuration, seed), run in results.evaluations.of(name, control).items():
                for metric, value in run.scores["metrics"].items():
                    counts = (len(run.questions), len(run.clusters))
                    rows.append([name, metric, *configuration, seed, control or "", _number(value), *counts])
    return _csv(rows)


def effects_csv(results: Results) -> str:
    """Return every effect on every reported metric, one per row, in the units of the reports."""
    head = ["benchmark", "metric", "unit", "effect_of", "order", "effect", "low", "high", "low_questions"]
    head += [
        "high_questions",
        "se_questions",
        "se_seeds",
        "p_questions",
        "p",
        "p_holm",
        "detectable",
        "clusters",
        "seeds",
    ]
    rows: list[Sequence[object]] = [head]
    for outcome in results.outcomes:
        for effect in outcome.effects:
            e = effect.estimate
            numbers = [e.value, e.interval.low, e.interval.high, e.over_questions.low, e.over_questions.high]
            numbers += [e.standard_errors.questions]
            tests = [effect.p_questions, effect.p, effect.p_holm, effect.detectable]
            rows.append(
                [
                    *(outcome.benchmark, outcome.measure.name, outcome.measure.unit),
                    *(effect.contrast.name, effect.contrast.order),
                    *map(_number, numbers),
                    "" if e.standard_errors.seeds is None else _number(e.standard_errors.seeds),
                    *map(_number, tests),
                    *(e.clusters, e.seeds),
                ]
            )
    return _csv(rows)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue()
