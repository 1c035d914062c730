"""A study's results: scores of configurations with intervals, effects, controls; and the tables of them.

The arithmetic is in `statistics`, one metric's outcome in `outcomes`, the report in `report`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from olivine.ablation.measures import FinishedEvaluation, QuestionSource, reported, title
from olivine.ablation.outcomes import Outcome, measured_outcome, same_questions
from olivine.ablation.plan import Plan
from olivine.errors import DataError, OlivineError, RunError
from olivine.evaluation.benchmarks.declaration import Metric
from olivine.files import atomic_file, write_text
from olivine.printable import csv_cell
from olivine.records import Control
from olivine.statistics import Configuration, corrected

RESULTS, RESULTS_PARQUET, EFFECTS = "results.csv", "results.parquet", "effects.csv"


@dataclass(frozen=True, slots=True)
class Results:
    """All results of a study so far; `unfinished` are the keys of the steps still to be done.

    `notes` say, in sentences, what is missing from which figures.
    """

    plan: Plan
    evaluations: "Evaluations"
    outcomes: tuple[Outcome, ...]
    unfinished: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def headlines(self) -> list[Outcome]:
        """The first metric of every benchmark."""
        return [outcome for outcome in self.outcomes if outcome.headline]


class Evaluations:
    """Every finished evaluation of a plan, each file read once; `notes` name those that cannot be read."""

    def __init__(self, plan: Plan) -> None:
        sources = {
            name: QuestionSource(recipe.opened(name), recipe.data, recipe.prompt, recipe.variant)
            for name, recipe in plan.study.recipe.benchmarks.items()
        }
        self._found: dict[tuple[str, Control | None], dict[tuple[Configuration, int], FinishedEvaluation]] = {}
        self.notes: list[str] = []
        read: dict[str, FinishedEvaluation | None] = {}
        for (configuration, seed, name, control), key in plan.evaluations.items():
            step = plan.steps[key]
            if step.done:
                if key not in read:
                    read[key] = self._read(step.folder, sources[name])
                run = read[key]
                if run is not None:
                    self._found.setdefault((name, control), {})[configuration, seed] = run

    def _read(self, folder: Path, source: QuestionSource) -> FinishedEvaluation | None:
        try:
            return FinishedEvaluation(folder, source)
        except DataError as error:
            self.notes.append(f"skipped, since it cannot be read: {error}")
            return None

    def of(self, name: str, control: Control | None = None) -> Mapping[tuple[Configuration, int], FinishedEvaluation]:
        """Return those of a benchmark under a control, by configuration and seed, in the study's order."""
        return self._found.get((name, control), {})


def collect(plan: Plan) -> Results:
    """Measure every finished evaluation of a plan and estimate the effects.

    p-values are Holm-corrected over the study: one family is every main effect on every benchmark's first metric;
    interactions and further metrics are separate families.

    What cannot be read, or was asked other questions than most, is skipped and named in the results' notes.

    Raises:
        RunError: there is nothing to report.
    """
    evaluations = Evaluations(plan)
    found: list[Outcome] = []
    notes = list(evaluations.notes)
    for name in plan.study.recipe.benchmarks:
        of_one, said = _benchmark(plan, evaluations, name)
        found, notes = found + of_one, notes + said
    if not found:
        missing = " ".join(notes) or "no evaluation is finished yet."
        raise RunError(f"{plan.study.directory}: {missing} Run the study: olivine ablate STUDY")
    outcomes: dict[int, Outcome] = {}
    for headline in (True, False):
        positions = [position for position, outcome in enumerate(found) if outcome.headline is headline]
        family = iter(corrected(effect for position in positions for effect in found[position].effects))
        for position in positions:
            own = tuple(next(family) for _ in found[position].effects)
            outcomes[position] = replace(found[position], effects=own)
    left = tuple(step.key for step in plan.left())
    notes += [note for outcome in found for note in outcome.notes]
    ordered = tuple(outcomes[position] for position in range(len(found)))
    return Results(plan, evaluations, ordered, left, tuple(dict.fromkeys(notes)))


def _benchmark(plan: Plan, evaluations: Evaluations, name: str) -> tuple[list[Outcome], list[str]]:
    """Return a benchmark's outcomes, the headline first, and what could not be measured."""
    finished = evaluations.of(name)
    if not finished:
        return [], [f"{title(name)}: no evaluation is finished; it is in no figure."]
    runs, notes = same_questions(plan.study, name, finished)
    found: list[Outcome] = []
    for measure in reported(list(runs.values())):
        try:
            controls = _control_values(plan, evaluations, name, measure)
            found.append(measured_outcome(plan.study, name, measure, not found, runs, controls))
        except OlivineError as error:
            notes.append(f"{title(name)} {measure.label} is not reported: {error}")
    return found, notes


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
        "p_mid",
        "p",
        "p_holm",
        "detectable",
        "tied_within",
        "clusters",
        "seeds",
    ]
    rows: list[Sequence[object]] = [head]
    for outcome in results.outcomes:
        for effect in outcome.effects:
            e = effect.estimate
            numbers = [e.value, e.interval.low, e.interval.high, e.over_questions.low, e.over_questions.high]
            numbers += [e.standard_errors.questions]
            tests = [effect.p_questions, effect.p_mid, effect.p, effect.p_holm, effect.detectable, effect.tied_within]
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
