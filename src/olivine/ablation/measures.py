"""From an evaluation's files to values of independent clusters, whatever the benchmark's metric is.

The arithmetic on such values is in `statistics`; scoring itself is the benchmarks' own.

Plain means of items need `items.jsonl` alone. For any other metric (POPE's F1, MME's acc + acc+, pairs all right) the
benchmark itself scores the answers again with every cluster left out in turn: the jackknife. So no scoring rule exists
twice, and a metric that a benchmark gains tomorrow is covered today.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from olivine.errors import DataError, RunError
from olivine.evaluation.answer_log import ANSWERS
from olivine.evaluation.answers import read_answers
from olivine.evaluation.benchmarks import Benchmark
from olivine.evaluation.run import ITEMS, SCORES
from olivine.files import read_json, read_json_lines
from olivine.records import Answer, Question
from olivine.statistics import Array, pseudo_values, ratio_values

#: The share of single questions that are right, in percent: the paper's Pr(correct). Every benchmark has it.
CORRECT = "correct"
#: More clusters than this are left out in groups: a score of thousands of images need not be made thousands of times.
GROUPS = 250


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as reports show it: times `scale`, in `cluster`, called `label` behind the benchmark's name.

    `linear`: it is a hundred times the mean of the items, so that nothing needs scoring again.
    """

    metric: str
    label: str
    scale: float = 1.0
    linear: bool = False
    unit: str = "%"


_ACCURACY = (Measure("accuracy", "accuracy", linear=True),)
_FRACTION = (Measure("accuracy", "accuracy", 100.0, linear=True),)
_CORRECT = Measure(CORRECT, "questions right", linear=True)
#: What is shown of each benchmark; the first is what headlines speak of. Metrics that a run lacks are ignored.
_MEASURES: dict[str, tuple[Measure, ...]] = {
    **dict.fromkeys(("ai2d", "exact-match", "gqa", "seed", "tallyqa", "textvqa", "vizwiz", "vqav2"), _ACCURACY),
    **dict.fromkeys(("mmmu", "mmstar", "ocid-ref", "refcoco", "vsr"), _FRACTION),
    "hallusionbench": (
        Measure("aAcc", "questions right", linear=True),
        Measure("qAcc", "questions right over all figures"),
    ),
    "mmbench": (Measure("accuracy", "accuracy over all rotations"),),
    "mme": (
        Measure("perception", "perception", unit="of 2000"),
        Measure("cognition", "cognition", unit="of 800"),
        Measure("total", "all tasks", unit="points"),
        _CORRECT,
    ),
    "mmvet": (Measure("total", "total", linear=True, unit="of 100"),),
    "mmvp": (Measure("pair", "pairs right", 100.0), _CORRECT),
    "pope": (Measure("mean/accuracy", "accuracy", 100.0), Measure("mean/f1", "F1", 100.0)),
    "scienceqa": (Measure("img", "accuracy with image"), Measure("accuracy", "accuracy", linear=True)),
}

#: Benchmarks as their authors write them, where that is not the name in capitals.
_TITLES = {
    "exact-match": "exact match",
    "hallusionbench": "HallusionBench",
    "mmbench": "MMBench",
    "mmstar": "MMStar",
    "mmvet": "MM-Vet",
    "ocid-ref": "OCID-Ref",
    "refcoco": "RefCOCO",
    "scienceqa": "ScienceQA",
    "seed": "SEED-Bench",
    "tallyqa": "TallyQA",
    "textvqa": "TextVQA",
    "vizwiz": "VizWiz",
    "vqav2": "VQAv2",
}


def title(benchmark: str) -> str:
    """A benchmark's name as its authors write it."""
    return _TITLES.get(benchmark, benchmark.upper())


def measures(benchmark: str, metrics: Sequence[Iterable[str]]) -> tuple[Measure, ...]:
    """Return what is shown of a benchmark: those of its measures that each of some evaluations' `metrics` has."""
    known = _MEASURES.get(benchmark, (_CORRECT,))
    there = [{*names, CORRECT} for names in metrics]
    shown = tuple(m for m in known if all(m.metric in names for names in there))
    return shown or (_CORRECT,)


class Asked:
    """A benchmark as a study asks it; its questions are read once for all evaluations.

    Args:
        benchmark: to score parts of the answers again.
        data: that benchmark's own files.
        prompt: the wording and
        variant: the scoring that were asked for.
    """

    def __init__(self, benchmark: Benchmark, data: Path, prompt: str | None = None, variant: str | None = None) -> None:
        self.benchmark, self.variant = benchmark, variant
        self._data, self._prompt = data, prompt

    @cached_property
    def questions(self) -> list[Question]:
        """What was asked, read from the benchmark's own files."""
        return self.benchmark.read(self._data, self._prompt)


class Evaluated:
    """One finished evaluation, ready to be measured; each of its files is read once.

    Args:
        folder: what `olivine evaluate` wrote.
        asked: the benchmark that it is of.

    Raises:
        DataError: the folder holds no evaluation, or a line of it is no scored item.
    """

    def __init__(self, folder: Path, asked: Asked) -> None:
        self.folder, self.asked = folder, asked
        self._texts: dict[str, str] | None = None
        self.scores = read_json(folder / SCORES)
        rows = read_json_lines(folder / ITEMS)
        try:
            self.questions = tuple(str(row["question_id"]) for row in rows)
            self._unit_of_item = tuple(str(row["cluster"]) for row in rows)
            self._correct = np.array([float(row["correct"]) for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder / ITEMS}: a line that is no scored item ({type(error).__name__}: {error}); "
                "expected question_id, cluster and correct. Evaluate again."
            ) from None
        self.clusters = tuple(dict.fromkeys(self._unit_of_item))
        if not self.clusters:
            raise DataError(f"{folder / ITEMS}: no scored item. Evaluate again.")

    @property
    def texts(self) -> dict[str, str]:
        """What was answered, by question id."""
        if self._texts is None:
            self._read_answers()
        assert self._texts is not None
        return self._texts

    def _read_answers(self) -> list[Answer]:
        # Only texts are kept: tens of thousands of objects would be walked at each of the interpreter's collections.
        answers = {answer.question_id: answer for answer in read_answers(self.folder / ANSWERS)}
        self._texts = {name: answer.text for name, answer in answers.items()}
        return list(answers.values())

    @cached_property
    def correct(self) -> dict[str, float]:
        """How right each question's answer is, by question id."""
        return dict(zip(self.questions, self._correct.tolist(), strict=True))

    def value(self, measure: Measure) -> float:
        """The score itself, as the benchmark's official metric (scaled)."""
        if measure.metric == CORRECT:
            return 100 * float(self._correct.mean())
        return float(self.scores["metrics"][measure.metric]) * measure.scale

    def values(self, measure: Measure) -> tuple[tuple[str, ...], Array]:
        """(names of the clusters, or groups of clusters, and their values), in an order that names alone decide.

        The mean of the values is the score (before the rounding of tools that round).
        """
        return self._of_items() if measure.linear else self._of_parts(measure)

    def _of_items(self) -> tuple[tuple[str, ...], Array]:
        position = {cluster: number for number, cluster in enumerate(sorted(self.clusters))}
        positions = [position[cluster] for cluster in self._unit_of_item]
        sums = np.bincount(positions, weights=self._correct).astype(float)
        counts = np.bincount(positions).astype(float)
        return tuple(position), 100 * ratio_values(sums, counts)

    def _of_parts(self, measure: Measure) -> tuple[tuple[str, ...], Array]:
        names, sizes, metrics = self._parts
        try:
            without = np.array([part[measure.metric] for part in metrics]) * measure.scale
        except KeyError:
            raise RunError(
                f"{self.folder}: {measure.metric} cannot be made without one of its clusters; there are too few of some "
                "kind for an interval. Give the benchmark more questions."
            ) from None
        whole = self.value(measure)
        if len(names) == 1:
            return tuple(names), np.array([whole])
        return tuple(names), pseudo_values(whole, without, sizes)

    @cached_property
    def _parts(self) -> tuple[list[str], Array, list[dict[str, float]]]:
        """Names, sizes and metrics-without of every cluster or group of clusters."""
        groups = grouped(self.clusters)
        names = [members[0] if len(groups) == len(self.clusters) else f"group {n}" for n, members in enumerate(groups)]
        left_out = [set(members) for members in groups] if len(groups) > 1 else []
        metrics = self.asked.benchmark.score_without(
            self.asked.questions, self._read_answers(), self.asked.variant, left_out
        )
        return names, np.array([len(members) for members in groups], dtype=float), metrics


def grouped(clusters: Sequence[str]) -> list[list[str]]:
    """The clusters one by one, or dealt into `GROUPS` groups by their hashes, so that every run deals alike."""
    ordered = sorted(clusters)
    if len(ordered) <= GROUPS:
        return [[cluster] for cluster in ordered]
    ordered.sort(key=lambda cluster: hashlib.sha256(cluster.encode()).digest())
    return [ordered[start::GROUPS] for start in range(GROUPS)]
