"""The table of methods as lines of text, for a terminal."""

from collections.abc import Mapping
from typing import Any

from olivine.explanation.method_table import MEASURES


def table_lines(table: Mapping[str, Any]) -> list[str]:
    """Return the table of every group of questions; a star marks what differs from the first method (p ≤ 0.05)."""
    lines = [f"{measure.label}: {measure.about}" for measure in MEASURES]
    lines.append("*: differs from the first method, paired over questions, p ≤ 0.05 after Holm's correction")
    for name, group in table["groups"].items():
        probability = group["probability"]
        lines += [
            "",
            f"{name}: {group['questions']} questions on {group['images']} images; the first token's probability: "
            f"{probability['with_image']:.2f} with the image, {probability['blind']:.2f} blind, "
            f"{probability['other_image']:.2f} with another image",
            f"{'':26}" + "".join(f"{measure.label:>22}" for measure in MEASURES),
        ]
        lines += [_method_line(method, figures) for method, figures in group["methods"].items()]
    if table["skipped"]:
        lines.append(f"{table['skipped']} questions skipped: the model answers nothing")
    return lines


def _method_line(method: str, figures: Mapping[str, Any]) -> str:
    return f"{method:26}" + "".join(f"{_cell(figures.get(measure.name), measure.name):>22}" for measure in MEASURES)


def _cell(figure: Mapping[str, Any] | None, name: str) -> str:
    if figure is None:
        return "–"
    digits = 2 if name == "randomised" else 1
    sure = figure.get("difference", {}).get("p_holm", 1.0) <= 0.05
    ends = f"[{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
    return f"{figure['value']:.{digits}f} {ends}{'*' if sure else ' '}"
