"""A study's tables in LaTeX: scores with intervals and averages, and main effects; for a paper with `booktabs`.

What stands in them is in `results` and `averaged`.
"""

from collections.abc import Sequence

import numpy as np

from olivine.ablation.averaged import AverageColumn, average_columns
from olivine.ablation.outcomes import Outcome
from olivine.ablation.results import Results
from olivine.ablation.study import Study
from olivine.printable import printable
from olivine.statistics import Average, Configuration, Estimate, Interval

LATEX = "tables.tex"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "×": r"$\times$",
    "–": "--",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}


def latex_tables(results: Results) -> str:
    """Return both tables, with the sentence of method that a paper needs under them."""
    study = results.plan.study
    parts = ["% Needs \\usepackage{booktabs}.", *_scores(results, average_columns(results)), ""]
    if any(outcome.effects for outcome in results.outcomes):
        parts += [*_effects(results), ""]
    parts += [f"% {line}" for line in method(study).split("\n")]
    parts += [f"% Missing: {' '.join(printable(note).split())}" for note in results.notes]
    return "\n".join(parts) + "\n"


def method(study: Study) -> str:
    """Return how the figures were found, in sentences for a paper."""
    seeds = len(study.recipe.seeds)
    runs = f"widened by the variance between {seeds} training runs" if seeds > 1 else "for the given training runs"
    return (
        "Intervals are at 95 %, over whole clusters (images, pairs or groups) at their effective sample size with\n"
        f"beta quantiles, {runs}. P-values are from a paired permutation test over clusters"
        + (" and a test that treats seeds as random too" if seeds > 1 else "")
        + ",\ncorrected after Holm over all main effects of the study."
    )


def escaped(text: object) -> str:
    """Return text for LaTeX on one line: nothing of it is a command."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(printable(str(text)).split()))


def _scores(results: Results, averages: Sequence[AverageColumn]) -> list[str]:
    study = results.plan.study
    heads = [escaped(outcome.column) for outcome in results.headlines] + [escaped(a.label) for a in averages]
    best = {outcome.benchmark: _best(outcome) for outcome in results.headlines}
    rows = []
    for configuration in study.configurations:
        levels = [escaped(level) for level in configuration]
        scores = [_score(o, configuration, best[o.benchmark] == configuration) for o in results.headlines]
        rows.append([*levels, *scores, *(_figure(a.values.get(configuration), a.digits) for a in averages)])
    return _table([*map(escaped, study.axes), *heads], rows, "l" * len(study.axes) + "r" * len(heads))


def _best(outcome: Outcome) -> Configuration | None:
    sign = -1 if outcome.measure.lower_is_better else 1
    return max(outcome.scores, key=lambda configuration: sign * outcome.scores[configuration].value, default=None)


def _score(outcome: Outcome, configuration: Configuration, best: bool) -> str:
    shown = _figure(outcome.scores.get(configuration))
    return rf"\textbf{{{shown.split(' ', 1)[0]}}} {shown.split(' ', 1)[1]}" if best and " " in shown else shown


def _effects(results: Results) -> list[str]:
    rows = []
    for outcome in results.outcomes:
        for effect in outcome.effects:
            if effect.contrast.order == 1:
                shown = _figure(effect.estimate, sign="+")
                p = r"$<$ 0.001" if effect.p_holm < 0.001 else f"{effect.p_holm:.2g}"
                tie = f"{effect.tied_within:.1f}" if np.isfinite(effect.tied_within) else "--"
                rows.append([escaped(effect.contrast.name), escaped(outcome.name), shown, p, tie])
    return _table(["change", "on", "effect", "$p$ (Holm)", "tied within"], rows, "llrrr")


def _figure(found: Estimate | Average | None, digits: int = 1, sign: str = "") -> str:
    if found is None:
        return "--"
    ends: Interval = found.interval
    value = f"${found.value:{sign}.{digits}f}$"
    if not (np.isfinite(ends.low) and np.isfinite(ends.high)):
        return value
    return rf"{value} {{\scriptsize $[{ends.low:{sign}.{digits}f}, {ends.high:{sign}.{digits}f}]$}}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], columns: str) -> list[str]:
    lines = [" & ".join(row) + r" \\" for row in rows]
    head = " & ".join(heads) + r" \\"
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
    ]
