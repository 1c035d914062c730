"""The majority-class baseline: answer every question with the most frequent reference for questions of its kind.

It is a model without images that knows the benchmark's statistics; `--blind` evaluates a given model without images.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from olivine.evaluation import benchmarks
from olivine.evaluation.benchmarks import Benchmark
from olivine.records import Answer, Question, Score


def majority(benchmark: Benchmark, questions: Sequence[Question]) -> Score:
    """Return the benchmark's own score of the most frequent reference of each kind of question.

    The kind is what the benchmark declares: GQA's detailed type, VQAv2's question type, POPE's setting, MME's sub-task
    or MM-Vet's capabilities; elsewhere all questions are of one kind. References are counted on the scored questions
    themselves, so it is what the best constant answers get, not an estimate.

    Raises:
        DataError: a question has no reference, or the benchmark cannot be scored (as its `score` says).
    """
    name = benchmark.declares.kind
    kinds: list[Hashable] = [None if name is None else question.details.get(name) for question in questions]
    counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for question, kind in zip(questions, kinds, strict=True):
        counts[kind].update(question.references)
    guesses = {kind: references.most_common(1)[0][0] for kind, references in counts.items() if references}
    answers = [Answer(question.id, guesses[kind]) for question, kind in zip(questions, kinds, strict=True)]
    return benchmark.score(questions, answers)


def majority_baseline_answers(name: str, folder: Path) -> dict[str, dict[str, float]]:
    """Return `{"majority": metrics}` of the benchmark whose files are in `folder`, asking no judge.

    Raises:
        RequestError, DataError: as the benchmark's `read` and `score`.
    """
    benchmark = benchmarks.find(name).asking_nobody()
    return {"majority": dict(majority(benchmark, benchmark.read(folder)).metrics)}
