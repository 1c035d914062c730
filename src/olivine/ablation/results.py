"""What a study found: scores of cells with intervals, effects, controls; and the tables that hold them.

The arithmetic is in `statistics`, what a score is made of in `measures`, pages for people in `report`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from olivine.ablation.measures import Asked, Evaluated, Measure, measures, title
from olivine.ablation.plan import Plan
from olivine.errors import RunError
from olivine.files import atomic_file, write_text
from olivine.printable import csv_cell
from olivine.records import Control
from olivine.statistics import Array, Cell, Effect, Estimate, contrasts, corrected, effects, estimates, generator

RESULTS, RESULTS_PARQUET, EFFECTS = "results.csv", "results.parquet", "effects.csv"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One metric of one benchmark over the whole study.

    `scores` and `controls` hold the cells that were evaluated; `effects` rest on those evaluated with every seed.
    """

    benchmark: str
    measure: Measure
    headline: bool
    scores: Mapping[Cell, Estimate]
    by_seed: Mapping[Cell, Mapping[int, float]]
    controls: Mapping[tuple[Cell, Control], float]
    effects: tuple[Effect, ...]

    @property
    def name(self) -> str:
        """Benchmark and metric, as sentences write them."""
        return f"{title(self.benchmark)} {self.measure.label}"

    @property
    def column(self) -> str:
        """The same with its unit, as tables head their columns."""
        return f"{self.name}, {self.measure.unit}"


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a study found so far; `unfinished` are the steps that it still lacks."""

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
        asked = {
            name: Asked(recipe.opened(name), recipe.data, recipe.prompt, recipe.variant)
            for name, recipe in plan.study.recipe.benchmarks.items()
        }
        self._found: dict[tuple[str, Control | None], dict[tuple[Cell, int], Evaluated]] = {}
        read: dict[str, Evaluated] = {}
        for (cell, seed, name, control), key in plan.evaluations.items():
            step = plan.steps[key]
            if step.done:
                if key not in read:
                    read[key] = Evaluated(step.folder, asked[name])
                self._found.setdefault((name, control), {})[cell, seed] = read[key]

    def of(self, name: str, control: Control | None = None) -> Mapping[tuple[Cell, int], Evaluated]:
        """Return those of a benchmark under a control, by cell and seed, in the study's order."""
        return self._found.get((name, control), {})


def collect(plan: Plan) -> Results:
    """Measure every finished evaluation of a plan and read the effects off them.

    p-values are Holm-corrected over the study: the family is every main effect on every benchmark's first metric;
    interactions, and further metrics, are families of their own.

    Raises:
        RunError: nothing is finished yet, or cells were asked different questions.
    """
    evaluations = Evaluations(plan)
    found: list[Outcome] = []
    for name in plan.study.recipe.benchmarks:
        found += _benchmark(plan, evaluations, name)
    if not found:
        raise RunError(f"{plan.study.directory}: no evaluation is finished yet. Run the study: olivine ablate STUDY")
    outcomes: dict[int, Outcome] = {}
    for headline in (True, False):
        places = [place for place, outcome in enumerate(found) if outcome.headline is headline]
        family = iter(corrected(effect for place in places for effect in found[place].effects))
        for place in places:
            own = tuple(next(family) for _ in found[place].effects)
            outcomes[place] = replace(found[place], effects=own)
    left = tuple(step.key for step in plan.left())
    return Results(plan, evaluations, tuple(outcomes[place] for place in range(len(found))), left)


def _benchmark(plan: Plan, evaluations: Evaluations, name: str) -> list[Outcome]:
    runs = evaluations.of(name)
    if not runs:
        return []
    shown = measures(name, [run.scores["metrics"] for run in runs.values()])
    return [_outcome(plan, evaluations, name, measure, place == 0) for place, measure in enumerate(shown)]


def _outcome(plan: Plan, evaluations: Evaluations, name: str, measure: Measure, headline: bool) -> Outcome:
    study, runs = plan.study, evaluations.of(name)
    units: tuple[str, ...] | None = None
    values: dict[tuple[Cell, int], Array] = {}
    for (cell, seed), run in runs.items():
        names, values[cell, seed] = run.values(measure)
        if units is not None and names != units:
            raise RunError(
                f"{run.folder}: other questions were asked here than of other cells; {name} cannot be paired."
            )
        units = names
    # Content decides the draws: the same answers give the same intervals, wherever and whenever they are computed.
    random = generator(name, measure.metric, "\n".join(units or ()), *(v.tobytes() for v in values.values()))
    cells = [cell for cell in study.cells if any((cell, seed) in runs for seed in study.recipe.seeds)]
    whole = [cell for cell in cells if all((cell, seed) in runs for seed in study.recipe.seeds)]
    scores: dict[Cell, Estimate] = {}
    found: list[Effect] = []
    if whole:
        block = np.stack([[values[cell, seed] for seed in study.recipe.seeds] for cell in whole])
        scores |= dict(zip(whole, estimates(block, random), strict=True))
        if len(units or ()) > 1:
            found = effects(block, contrasts(study.axes, whole), random)
    for cell in cells:
        if cell not in scores:
            present = np.stack([values[cell, seed] for seed in study.recipe.seeds if (cell, seed) in runs])
            (scores[cell],) = estimates(present[None], random)
    return Outcome(
        benchmark=name,
        measure=measure,
        headline=headline,
        scores={cell: scores[cell] for cell in cells},
        by_seed={
            cell: {seed: runs[cell, seed].value(measure) for seed in study.recipe.seeds if (cell, seed) in runs}
            for cell in cells
        },
        controls=_control_values(plan, evaluations, name, measure),
        effects=tuple(found),
    )


def _control_values(
    plan: Plan, evaluations: Evaluations, name: str, measure: Measure
) -> dict[tuple[Cell, Control], float]:
    found: dict[tuple[Cell, Control], list[float]] = {}
    for control in plan.study.recipe.controls:
        for (cell, _), run in evaluations.of(name, control).items():
            found.setdefault((cell, control), []).append(run.value(measure))
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
        return  # an extra; the table itself is written in any case
    with atomic_file(path) as temporary:
        parquet.write_table(csv.read_csv(io.BytesIO(table.encode())), temporary)


def results_csv(results: Results) -> str:
    """Every metric of every finished evaluation, one a row; the same bytes for the same answers."""
    study = results.plan.study
    axes = list(study.axes)
    rows: list[Sequence[object]] = [["benchmark", "metric", *axes, "seed", "control", "value", "items", "units"]]
    for name in study.recipe.benchmarks:
        for control in (None, *study.recipe.controls):
            for (cell, seed), run in results.evaluations.of(name, control).items():
                for metric, value in run.scores["metrics"].items():
                    counts = (len(run.questions), len(run.units))
                    rows.append([name, metric, *cell, seed, control or "", _number(value), *counts])
    return _csv(rows)


def effects_csv(results: Results) -> str:
    """Every effect on every shown metric, one a row, in the units of the reports."""
    head = ["benchmark", "metric", "unit", "effect_of", "order", "effect", "low", "high", "low_questions"]
    head += ["high_questions", "se_questions", "se_seeds", "p_questions", "p", "p_holm", "detectable", "units", "seeds"]
    rows: list[Sequence[object]] = [head]
    for outcome in results.outcomes:
        for effect in outcome.effects:
            e = effect.estimate
            numbers = [e.value, e.interval.low, e.interval.high, e.over_questions.low, e.over_questions.high]
            numbers += [e.spread.questions]
            tests = [effect.p_questions, effect.p, effect.p_holm, effect.detectable]
            rows.append(
                [
                    *(outcome.benchmark, outcome.measure.metric, outcome.measure.unit),
                    *(effect.contrast.name, effect.contrast.order),
                    *map(_number, numbers),
                    "" if e.spread.seeds is None else _number(e.spread.seeds),
                    *map(_number, tests),
                    *(e.units, e.seeds),
                ]
            )
    return _csv(rows)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue()
