"""Find the scored items of several models, and the questions that all of them answered.

The arithmetic is in `statistics.comparison`. An item's `correct`, from 0 to 1, is compared: for a benchmark whose
official metric is not a mean of items (POPE's F1, MME's points) that is the share of questions right, and not that
metric.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olivine.errors import DataError, RequestError
from olivine.evaluation.run import ITEMS, SCORES
from olivine.files import read_json, read_json_lines
from olivine.statistics import PairedItems

#: Where evaluations lie in a folder, the nearest first: the folder itself, its evaluations, a run's, a run's stages'.
_PLACES = (ITEMS, f"*/{ITEMS}", f"evaluation/*/{ITEMS}", f"*/evaluation/*/{ITEMS}")
#: What items without a `scores.json` beside them are called.
_UNNAMED = "items"


@dataclass(frozen=True, slots=True)
class ScoredItems:
    """One model's items on one benchmark: question -> (cluster, how right it is, from 0 to 1)."""

    path: Path
    variant: str | None
    items: Mapping[str, tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Pairing:
    """The items that all models have, by benchmark, and notes on what is skipped."""

    paired: Mapping[str, PairedItems]
    notes: tuple[str, ...]


def find_items(path: Path) -> dict[str, ScoredItems]:
    """Return a model's items by benchmark (`gqa`, `gqa-blind`), from an `items.jsonl`, an evaluation, or a run's
    folder.

    Raises:
        RequestError: there are none, or two of the same benchmark.
        DataError: a line is not a scored item.
    """
    files = [path] if path.is_file() else next((f for f in (sorted(path.glob(p)) for p in _PLACES) if f), [])
    if not files:
        raise RequestError(
            f"{path}: no {ITEMS} in it. Give the folder that `olivine evaluate` wrote, a run that was evaluated, or a "
            f"file of lines with question_id, cluster and correct."
        )
    found: dict[str, ScoredItems] = {}
    for file in files:
        about = read_json(file.with_name(SCORES)) if file.with_name(SCORES).is_file() else {}
        name = _name(about)
        if name in found:
            raise RequestError(f"{path}: {found[name].path} and {file} are both of {name}. Name one of their folders.")
        found[name] = ScoredItems(file, about.get("variant"), _read(file))
    return found


def _name(about: Mapping[str, Any]) -> str:
    control = about.get("control")
    return str(about.get("benchmark", _UNNAMED)) + (f"-{control}" if control else "")


def _read(path: Path) -> dict[str, tuple[str, float]]:
    items: dict[str, tuple[str, float]] = {}
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            question, cluster, correct = str(row["question_id"]), str(row["cluster"]), float(row["correct"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: line {number} is not a scored item ({type(error).__name__}: {error}); "
                "expected question_id, cluster and correct (from 0 to 1)."
            ) from None
        if not 0 <= correct <= 1:
            raise DataError(f"{path}: line {number}: correct is {correct}; expected a number from 0 to 1.")
        if question in items:
            raise DataError(f"{path}: line {number}: question {question!r} is there twice; each is to be there once.")
        items[question] = (cluster, correct)
    if not items:
        raise DataError(f"{path}: no scored item.")
    return items


def pair(models: Sequence[Mapping[str, ScoredItems]], names: Sequence[str]) -> Pairing:
    """Return the questions of each benchmark that all models answered.

    Args:
        models: what `find_items` found, two or more.
        names: what to call the models.

    Raises:
        RequestError: no benchmark, or no question of one, is common to all; or one was scored by different variants.
        DataError: a question has another cluster with another model.
    """
    shared = [name for name in models[0] if all(name in found for found in models)]
    if not shared:
        have = "; ".join(f"{name}: {', '.join(found)}" for name, found in zip(names, models, strict=True))
        raise RequestError(f"no benchmark is common to all ({have}). Evaluate them on the same one.")
    notes = [
        f"{benchmark}: only {name} has it; it is not compared."
        if sum(benchmark in other for other in models) == 1
        else f"{benchmark}: {name} has it and others do not; it is not compared."
        for name, found in zip(names, models, strict=True)
        for benchmark in found
        if benchmark not in shared
    ]
    paired = {}
    for benchmark in shared:
        of_all = [found[benchmark] for found in models]
        paired[benchmark], said = _paired(benchmark, of_all, names)
        notes += said
    return Pairing(paired, tuple(notes))


def _paired(benchmark: str, of_all: Sequence[ScoredItems], names: Sequence[str]) -> tuple[PairedItems, list[str]]:
    variants = {found.variant for found in of_all}
    if len(variants) > 1:
        by_name = ", ".join(f"{name} {found.variant}" for name, found in zip(names, of_all, strict=True))
        raise RequestError(f"{benchmark}: scored by different variants ({by_name}). Score all by the same one.")
    questions = sorted(set.intersection(*(set(found.items) for found in of_all)))
    if not questions:
        raise RequestError(f"{benchmark}: no question is common to all of {', '.join(names)}.")
    notes = []
    for name, found in zip(names, of_all, strict=True):
        more = len(found.items) - len(questions)
        if more:
            notes.append(f"{benchmark}: {more:,} questions of {name} are skipped; others did not answer them.")
        for question in questions:
            if found.items[question][0] != of_all[0].items[question][0]:
                raise DataError(
                    f"{found.path}: question {question!r} is in cluster {found.items[question][0]!r}, and in "
                    f"{of_all[0].items[question][0]!r} in {of_all[0].path}. Score both with the same annotations."
                )
    items = np.array([[100 * found.items[question][1] for question in questions] for found in of_all])
    return PairedItems(items, [of_all[0].items[question][0] for question in questions]), notes
