"""Metrics that follow from counts: answers are graded once, then metrics of any subset of questions need only counting.

Each benchmark defines what is counted and how metrics follow from it.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from olivine.evaluation.benchmarks.base import Benchmark
from olivine.records import Answer, Item, Question, Score

#: How often each key was counted.
Counts = Mapping[Hashable, int]


@dataclass(frozen=True, slots=True)
class Graded:
    """Answers as graded by a variant.

    `items` has an entry for each question that the variant scores, in their order; `counted` has the keys that
    metrics are computed from, each with its cluster.
    """

    items: tuple[Item, ...]
    counted: Sequence[tuple[str, Hashable]]


class CountedBenchmark(Benchmark):
    """A benchmark whose metrics are a function of counts that add up over clusters.

    The jackknife of an interval omits hundreds of clusters in turn; with counts nothing needs regrading.
    """

    @abstractmethod
    def grade(self, questions: Sequence[Question], texts: Mapping[str, str], variant: str) -> Graded:
        """Grade the answers `texts`, by question id, under a variant."""

    @abstractmethod
    def metrics(self, counts: Counts, variant: str) -> dict[str, float]:
        """Return the metrics that follow from counts over any set of clusters."""

    def graded_score(
        self, questions: Sequence[Question], texts: Mapping[str, str], variant: str, missing: tuple[str, ...]
    ) -> Score:
        """Return the score of all questions."""
        graded = self.grade(questions, texts, variant)
        metrics = self.metrics(Counter(key for _, key in graded.counted), variant)
        return self.result(variant, metrics, graded.items, missing)

    def score_without(
        self,
        questions: Sequence[Question],
        answers: Sequence[Answer],
        variant: str | None,
        groups: Sequence[Collection[str]],
    ) -> list[dict[str, float]]:
        """Return the metrics with each group of clusters omitted in turn; the result equals scoring the rest."""
        selected = self.choose_variant(variant)
        texts = {answer.question_id: answer.text for answer in answers}
        by_cluster: dict[str, Counter[Hashable]] = {}
        for cluster, key in self.grade(questions, texts, selected).counted:
            by_cluster.setdefault(cluster, Counter())[key] += 1
        total: Counter[Hashable] = Counter()
        for counts in by_cluster.values():
            total.update(counts)
        found = []
        for group in groups:
            left = Counter(total)
            for cluster in group:
                left.subtract(by_cluster.get(cluster, {}))
            found.append(self.metrics({key: count for key, count in left.items() if count}, selected))
        return found
