"""The report: one HTML page that opens offline, the same in Markdown, and the tables behind it.

Its content is decided here, its look in `templates/`. Everything that a model, a data set or a recipe wrote is escaped
by the template engine and shown as text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from olivine import __version__
from olivine.ablation.agreement import Agreement, compare
from olivine.ablation.averaged import average_columns
from olivine.ablation.curves import Curves, training_curves
from olivine.ablation.disagreements import disagreements
from olivine.ablation.latex import LATEX, latex_tables
from olivine.ablation.measures import FinishedEvaluation, title
from olivine.ablation.outcomes import Outcome
from olivine.ablation.published import PublishedTable
from olivine.ablation.results import Results, write_tables
from olivine.ablation.spent import Spent, spent
from olivine.files import read_json, write_text
from olivine.printable import printable
from olivine.recipe import PROVENANCE
from olivine.statistics import Average, Configuration, Effect, Estimate

HTML, MARKDOWN = "report.html", "report.md"
#: Significance level, for p-values that are Holm-corrected over the study.
SIGNIFICANT = 0.05
#: A breakdown shows at most this many metrics in the page; results.csv has them all.
_BREAKDOWN = 40


def write_report(results: Results, folder: Path, against: PublishedTable | None = None, *, latex: bool = False) -> Path:
    """Write report.html, report.md, results.csv, effects.csv and, with `latex`, tables.tex; return the page's path."""
    context = report_context(results, against)
    write_tables(results, folder)
    if latex:
        write_text(folder / LATEX, latex_tables(results))
    environment = _environment()
    write_text(folder / HTML, environment.get_template("report.html.j2").render(context))
    write_text(folder / MARKDOWN, environment.get_template("report.md.j2").render(context))
    return folder / HTML


def report_context(results: Results, against: PublishedTable | None = None) -> dict[str, Any]:
    """Return everything that the templates show."""
    study = results.plan.study
    compared: list[Agreement] = compare(results, against) if against is not None else []
    curves: list[Curves] = training_curves(results.plan)
    costs: list[Spent] = spent(results.plan)
    return {
        "study": study,
        "results": results,
        "headlines": headlines(results),
        "forests": [_forest(outcome) for outcome in results.outcomes if outcome.effects],
        "columns": results.headlines,
        "rows": [_row(results, configuration) for configuration in study.configurations],
        "best": {outcome.benchmark: _best(outcome) for outcome in results.headlines},
        "averages": average_columns(results),
        "disagreements": disagreements(results),
        "breakdowns": [_breakdown(results, name) for name in study.recipe.benchmarks],
        "curves": curves,
        "spent": costs,
        "against": against,
        "compared": compared,
        "provenance": _provenance(results),
        "version": __version__,
        "one_seed": len(study.recipe.seeds) == 1,
        "two_seeds": len(study.recipe.seeds) == 2,
        "significant": SIGNIFICANT,
    }


def headlines(results: Results) -> list[dict[str, Any]]:
    """Return, for every change from a baseline, its effect on every benchmark and the verdict over all of them."""
    study = results.plan.study
    found = []
    for axis, levels in study.axes.items():
        for level in levels[1:]:
            effects = [
                (outcome, effect)
                for outcome in results.headlines
                for effect in outcome.effects
                if effect.contrast.levels == ((axis, level),)
            ]
            if effects:
                found.append({"phrase": study.phrase(axis, level), "effects": effects, "verdict": verdict(effects)})
    return found


def verdict(effects: Sequence[tuple[Outcome, Effect]]) -> str:
    """Say how many benchmarks a change raises, lowers and leaves undecided."""
    sure = [effect.estimate.value for _, effect in effects if effect.p_holm <= SIGNIFICANT]
    up, down = sum(value > 0 for value in sure), sum(value < 0 for value in sure)
    parts = [f"raises {up}" if up else "", f"lowers {down}" if down else ""]
    undecided = len(effects) - up - down
    parts.append(f"leaves {undecided} undecided" if undecided else "")
    return ", ".join(part for part in parts if part) + f" of {len(effects)} benchmark{'s' if len(effects) != 1 else ''}"


def _forest(outcome: Outcome) -> dict[str, Any]:
    """Return the effects on one metric, with the positions of their marks in percent of the width."""
    ends = [0.0]
    for effect in outcome.effects:
        ends += [e for e in (effect.estimate.interval.low, effect.estimate.interval.high) if np.isfinite(e)]
        ends.append(effect.estimate.value)
    low, high = min(ends), max(ends)
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def position(value: float) -> str:
        return f"{100 * (min(max(value, low), high) - low) / (high - low):.2f}%"

    marks = [
        {
            "effect": effect,
            "low": position(effect.estimate.interval.low),
            "high": position(effect.estimate.interval.high),
            "value": position(effect.estimate.value),
            "sure": effect.p_holm <= SIGNIFICANT,
        }
        for effect in outcome.effects
    ]
    return {"outcome": outcome, "marks": marks, "zero": position(0.0)}


def _row(results: Results, configuration: Configuration) -> dict[str, Any]:
    scores: dict[str, Estimate | None] = {o.benchmark: o.scores.get(configuration) for o in results.headlines}
    controls = {
        (outcome.benchmark, control): outcome.controls.get((configuration, control))
        for outcome in results.headlines
        for control in results.plan.study.recipe.controls
    }
    return {
        "configuration": configuration,
        "name": results.plan.study.configuration_name(configuration),
        "scores": scores,
        "controls": controls,
    }


def _best(outcome: Outcome) -> Configuration | None:
    return max(outcome.scores, key=lambda configuration: outcome.scores[configuration].value, default=None)


def _breakdown(results: Results, name: str) -> dict[str, Any]:
    """Return every metric of a benchmark per configuration, in the units that people read, averaged over seeds.

    The last row is the share of answers that the scoring could not read, where the evaluations say.
    """
    by_configuration: dict[Configuration, list[FinishedEvaluation]] = {}
    for (configuration, _), run in results.evaluations.of(name).items():
        by_configuration.setdefault(configuration, []).append(run)
    runs = [run for of_one in by_configuration.values() for run in of_one]
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.scores["metrics"]))
    rows = []
    for metric in metrics[:_BREAKDOWN]:
        found = [[shown for run in of_one for shown in run.shown(metric)] for of_one in by_configuration.values()]
        unit = next((unit for of_one in found for _, unit in of_one), "")
        rows.append((f"{metric}, {unit}" if unit else metric, [_mean([value for value, _ in each]) for each in found]))
    if runs and all(run.unread is not None for run in runs):
        shares = [[run.unread or 0.0 for run in of_one] for of_one in by_configuration.values()]
        rows.append(("answers that could not be read, %", [_mean(each) for each in shares]))
    return {
        "benchmark": name,
        "configurations": list(by_configuration),
        "rows": rows,
        "cut": max(0, len(metrics) - _BREAKDOWN),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _provenance(results: Results) -> dict[str, Any]:
    for step in results.plan.steps.values():
        if (step.folder / PROVENANCE).is_file():
            return dict(read_json(step.folder / PROVENANCE))
    return {}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("olivine.ablation", "templates"),
        autoescape=jinja2.select_autoescape(["html", "html.j2"], default_for_string=True),
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": signed, "plain": plain, "p": p_value, "ends": interval, "cellmd": _markdown_cell}
    environment.filters["title_of"] = title
    return environment


def _printable(value: Any) -> Any:
    """Return a value as templates show it: text without control characters, everything else unchanged."""
    # The engine's escaped text has its own class, which must be kept.
    return value if not isinstance(value, str) else type(value)(printable(value))


def plain(value: float | None, digits: int = 1) -> str:
    """Format a number with a true minus sign; None as a dash."""
    # Adding zero turns a rounded minus zero into zero.
    return "–" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Format a difference with its sign."""
    return f"{round(value, digits) + 0.0:+,.{digits}f}".replace("-", "−")


def interval(estimate: Estimate | Average, difference: bool = False, digits: int = 1) -> str:
    """Format an interval as `[low, high]`, or say why there is none."""
    low, high = estimate.interval.low, estimate.interval.high
    if not (np.isfinite(low) and np.isfinite(high)):
        return "[one cluster: unknown]"
    show = signed if difference else plain
    return f"[{show(low, digits)}, {show(high, digits)}]"


def p_value(value: float) -> str:
    """Format a p-value to two digits, never rounded to 0."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _markdown_cell(text: object) -> str:
    """Escape text so that it cannot leave its table cell or become markup."""
    escaped = str(text).replace("\\", "\\\\")
    for mark in "|`*_<>[]#":
        escaped = escaped.replace(mark, "\\" + mark)
    return " ".join(escaped.split())
