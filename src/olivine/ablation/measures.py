"""From an evaluation's files to values per independent cluster, for any benchmark metric.

The arithmetic on these values is in `statistics`; scoring itself is in the benchmarks.

Plain means of items need only `items.jsonl`. For any other metric (POPE's F1, MME's acc + acc+, pairs all right) the
benchmark rescores the answers with each cluster omitted in turn: the jackknife. No scoring rule is therefore written
twice, and metrics added to a benchmark later are covered too.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from olivine.errors import DataError, RunError
from olivine.evaluation import benchmarks
from olivine.evaluation.answer_log import ANSWERS
from olivine.evaluation.answers import read_answers
from olivine.evaluation.benchmarks import Benchmark
from olivine.evaluation.benchmarks.declaration import CORRECT, Metric
from olivine.evaluation.run import ITEMS, SCORES
from olivine.files import read_json, read_json_lines
from olivine.records import Answer, Question
from olivine.statistics import Array, pseudo_values, ratio_values

#: More clusters than this are omitted in groups, so that thousands of images are not rescored thousands of times.
GROUPS = 250


def title(benchmark: str) -> str:
    """Return a benchmark's name as its authors write it."""
    return benchmarks.find(benchmark).declares.title if benchmark in benchmarks.names() else benchmark


def reported(evaluations: Sequence["FinishedEvaluation"]) -> tuple[Metric, ...]:
    """Return the metrics reported of evaluations of one benchmark, at least one: those that all of them have."""
    first = evaluations[0]
    declared = first.source.benchmark.declares
    return declared.reported(first.scores.get("variant"), [run.scores["metrics"] for run in evaluations])


class QuestionSource:
    """A benchmark as a study uses it; its questions are read once for all evaluations.

    Args:
        benchmark: the benchmark, which rescores subsets of the answers.
        data: the benchmark's official files.
        prompt: the requested prompt wording.
        variant: the requested scoring variant.
    """

    def __init__(self, benchmark: Benchmark, data: Path, prompt: str | None = None, variant: str | None = None) -> None:
        self.benchmark, self.variant = benchmark, variant
        self._data, self._prompt = data, prompt

    @cached_property
    def questions(self) -> list[Question]:
        """The questions, read from the benchmark's official files."""
        return self.benchmark.read(self._data, self._prompt)


class FinishedEvaluation:
    """One finished evaluation, ready to be measured; each of its files is read once.

    Args:
        folder: the folder that the evaluation wrote.
        source: its benchmark with the questions.

    Raises:
        DataError: the folder holds no evaluation, or a line is not a scored item.
    """

    def __init__(self, folder: Path, source: QuestionSource) -> None:
        self.folder, self.source = folder, source
        self._texts: dict[str, str] | None = None
        self.scores = read_json(folder / SCORES)
        rows = read_json_lines(folder / ITEMS)
        try:
            self.questions = tuple(str(row["question_id"]) for row in rows)
            self._cluster_of_item = tuple(str(row["cluster"]) for row in rows)
            self._correct = np.array([float(row["correct"]) for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder / ITEMS}: a line is not a scored item ({type(error).__name__}: {error}); "
                "expected question_id, cluster and correct. Evaluate again."
            ) from None
        self.clusters = tuple(dict.fromkeys(self._cluster_of_item))
        if not self.clusters:
            raise DataError(f"{folder / ITEMS}: no scored item. Evaluate again.")

    @property
    def texts(self) -> dict[str, str]:
        """The answers' texts, by question id."""
        if self._texts is None:
            self._read_answers()
        assert self._texts is not None
        return self._texts

    def _read_answers(self) -> list[Answer]:
        # Only texts are kept: the garbage collector would traverse tens of thousands of objects again and again.
        answers = {answer.question_id: answer for answer in read_answers(self.folder / ANSWERS)}
        self._texts = {name: answer.text for name, answer in answers.items()}
        return list(answers.values())

    @cached_property
    def correct(self) -> dict[str, float]:
        """How correct each answer is, from 0 to 1, by question id."""
        return dict(zip(self.questions, self._correct.tolist(), strict=True))

    def value(self, metric: Metric) -> float:
        """Return the score itself: the benchmark's official metric, in the unit that people read."""
        if metric.name == CORRECT.name:
            return 100 * float(self._correct.mean())
        return metric.shown(float(self.scores["metrics"][metric.name]))

    def shown(self, name: str) -> list[tuple[float, str]]:
        """Return a metric of the score, in the unit that people read, with that unit; nothing if the score lacks it."""
        metrics = {key: value for key, value in self.scores["metrics"].items() if key == name}
        declared = self.source.benchmark.declares
        return [(value, unit) for _, value, unit in declared.shown(metrics, self.scores.get("variant"))]

    @property
    def unread(self) -> float | None:
        """The share of answers that the scoring could not read, in percent; None where the score does not say."""
        unread = self.scores.get("unread")
        return None if unread is None else 100 * len(unread) / len(self.questions)

    def values(self, metric: Metric) -> tuple[tuple[str, ...], Array]:
        """Return (names of the clusters or groups of clusters, their values), in an order that depends on names alone.

        The mean of the values is the score (before rounding, where the official tool rounds).
        """
        names, values, *_ = self.clustered(metric)
        return names, values

    def clustered(self, metric: Metric) -> tuple[tuple[str, ...], Array, Array, Array]:
        """Return (names, values, contributions, questions) of the clusters or groups of clusters.

        Contributions sum to the score: for a mean of items, a cluster's right answers over all questions; for another
        metric, its share of the score and its linear influence on it.
        """
        return self._of_items() if metric.mean_of_items else self._of_groups(metric)

    def items(self, order: Sequence[str]) -> Array:
        """Return how right each answer is, in percent, for the questions in `order`."""
        return 100 * np.array([self.correct[question] for question in order])

    def cluster_of(self, order: Sequence[str]) -> list[str]:
        """Return the cluster of each question in `order`."""
        clusters = dict(zip(self.questions, self._cluster_of_item, strict=True))
        return [clusters[question] for question in order]

    def _of_items(self) -> tuple[tuple[str, ...], Array, Array, Array]:
        position = {cluster: number for number, cluster in enumerate(sorted(self.clusters))}
        positions = [position[cluster] for cluster in self._cluster_of_item]
        sums = np.bincount(positions, weights=self._correct).astype(float)
        counts = np.bincount(positions).astype(float)
        return tuple(position), 100 * ratio_values(sums, counts), 100 * sums / counts.sum(), counts

    def _of_groups(self, metric: Metric) -> tuple[tuple[str, ...], Array, Array, Array]:
        names, sizes, questions, metrics = self._groups
        try:
            without = np.array([values[metric.name] for values in metrics]) * metric.scale
        except KeyError:
            raise RunError(
                f"{self.folder}: {metric.name} cannot be computed without one of its clusters; there are too few of "
                "some kind for an interval. Give the benchmark more questions."
            ) from None
        whole = self.value(metric)
        if len(names) == 1:
            return tuple(names), np.array([whole]), np.array([whole]), questions
        shares = questions / questions.sum()
        influence = (1 - shares) * (whole - without)
        contributions = shares * whole + influence - influence.mean()
        return tuple(names), pseudo_values(whole, without, sizes), contributions, questions

    @cached_property
    def _groups(self) -> tuple[list[str], Array, Array, list[dict[str, float]]]:
        """Names of the clusters or groups of clusters, their clusters, questions, and the metrics without each."""
        groups = grouped(self.clusters)
        names = [members[0] if len(groups) == len(self.clusters) else f"group {n}" for n, members in enumerate(groups)]
        omitted = [set(members) for members in groups] if len(groups) > 1 else []
        metrics = self.source.benchmark.score_without(
            self.source.questions, self._read_answers(), self.source.variant, omitted
        )
        asked = Counter(self._cluster_of_item)
        questions = [sum(asked[cluster] for cluster in members) for members in groups]
        return names, np.array([len(g) for g in groups], dtype=float), np.array(questions, dtype=float), metrics


def grouped(clusters: Sequence[str]) -> list[list[str]]:
    """Return each cluster alone, or `GROUPS` groups of clusters assigned by hash, so that every run groups alike."""
    ordered = sorted(clusters)
    if len(ordered) <= GROUPS:
        return [[cluster] for cluster in ordered]
    ordered.sort(key=lambda cluster: hashlib.sha256(cluster.encode()).digest())
    return [ordered[start::GROUPS] for start in range(GROUPS)]
