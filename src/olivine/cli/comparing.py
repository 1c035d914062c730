"""`olivine compare`.

Finding items is in `evaluation.compared`, the arithmetic in `statistics.comparison`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Json, echo, log
from olivine.errors import RequestError

if TYPE_CHECKING:
    from olivine.statistics import Comparison, Estimate, PairedItems

app = OnceTyper()


@app.command()
def compare(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="A B [C ...]", help="Evaluations: their folders, runs, or files of scored items."),
    ],
    margin: Annotated[
        float | None, typer.Option(help="Points within which two models count as tied (two one-sided tests).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare models on the questions that all of them answered, paired over questions and clusters.

    Prints every model's share of questions right, and for every pair the difference with its 95 % interval, the
    permutation test's p (Holm-corrected over all that is printed), mid-p, items won and lost, and the margin within
    which they are tied.

    Example: olivine compare runs/clip runs/dinov2 --margin 2
    """
    from olivine.evaluation.compared import find_items, pair
    from olivine.statistics import compare as compared
    from olivine.statistics import model_scores

    if len(models) < 2:
        raise RequestError("olivine compare: give two models or more.")
    if margin is not None and not 0 < margin <= 100:
        raise RequestError(f"--margin {margin:g}: expected points above 0 and at most 100.")
    names = _names(models)
    pairing = pair([find_items(path) for path in models], names)
    for benchmark, paired in pairing.paired.items():
        if len(set(paired.clusters)) < 2:
            raise RequestError(f"{benchmark}: all common questions are in one cluster; nothing can be said of others.")
    scores = {benchmark: model_scores(paired) for benchmark, paired in pairing.paired.items()}
    found = compared(pairing.paired, margin=margin)
    for note in pairing.notes:
        log.print(note, markup=False, highlight=False)
    if as_json:
        comparisons = [_json(comparison, names) for comparison in found]
        echo(json.dumps({"scores": _scores_json(scores, pairing.paired, names), "comparisons": comparisons}))
        return
    for line in _lines(scores, pairing.paired, found, names, margin):
        echo(line)


def _names(models: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    parts = [path.absolute().parts for path in models]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of_one[-count:]) for of_one in parts]
        if len(set(names)) == len(names):
            return names
    raise RequestError(f"{models[0]}: named twice; give different models.")


def _lines(
    scores: "Mapping[str, list[Estimate]]",
    paired: "Mapping[str, PairedItems]",
    found: "Sequence[Comparison]",
    names: Sequence[str],
    margin: float | None,
) -> Iterator[str]:
    for benchmark, estimates in scores.items():
        clusters = len(set(paired[benchmark].clusters))
        asked = len(paired[benchmark].clusters)
        yield f"{benchmark}: {asked:,} questions in {clusters:,} clusters, questions right in %"
        for name, estimate in zip(names, estimates, strict=True):
            yield f"  {name}\t{estimate.value:.1f} [{estimate.interval.low:.1f}, {estimate.interval.high:.1f}]"
        for comparison in found:
            if comparison.benchmark == benchmark:
                yield "  " + _line(comparison, names, margin)


def _line(found: "Comparison", names: Sequence[str], margin: float | None) -> str:
    effect, ends = found.effect, found.effect.estimate.interval
    line = (
        f"{names[found.second]} minus {names[found.first]}\t"
        f"{effect.estimate.value:+.1f} [{ends.low:+.1f}, {ends.high:+.1f}], p {effect.p:.2g} "
        f"(Holm {effect.p_holm:.2g}, mid-p {effect.p_mid:.2g}), won {found.won}, lost {found.lost}"
    )
    if margin is None:
        return f"{line}, tied within {effect.tied_within:.1f}"
    verdict = "tied" if found.tied else "not shown to be tied"
    return f"{line}, {verdict} within {margin:g}, power to find {margin:g}: {100 * (found.power or 0):.0f} %"


def _json(found: "Comparison", names: Sequence[str]) -> dict[str, Any]:
    effect, ends = found.effect, found.effect.estimate.interval
    return {
        "benchmark": found.benchmark,
        "first": names[found.first],
        "second": names[found.second],
        "difference": effect.estimate.value,
        "low": ends.low,
        "high": ends.high,
        "standard_error": effect.estimate.standard_errors.questions,
        "p": effect.p,
        "p_mid": effect.p_mid,
        "p_holm": effect.p_holm,
        "won": found.won,
        "lost": found.lost,
        "questions": found.questions,
        "clusters": effect.estimate.clusters,
        "tied_within": effect.tied_within,
        "tied": found.tied,
        "p_equivalence": found.p_equivalence,
        "power": found.power,
        "detectable": effect.detectable,
    }


def _scores_json(
    scores: "Mapping[str, list[Estimate]]", paired: "Mapping[str, PairedItems]", names: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": benchmark,
            "model": name,
            "correct": estimate.value,
            "low": estimate.interval.low,
            "high": estimate.interval.high,
            "standard_error": estimate.standard_errors.questions,
            "questions": len(paired[benchmark].clusters),
            "clusters": estimate.clusters,
        }
        for benchmark, estimates in scores.items()
        for name, estimate in zip(names, estimates, strict=True)
    ]
