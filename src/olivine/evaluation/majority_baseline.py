"""The majority-class baseline: answer every question with the most frequent reference for questions of its kind.

It is a model without images that knows the benchmark's statistics; `--blind` evaluates a given model without images.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from olivine.evaluation import benchmarks
from olivine.evaluation.benchmarks import Benchmark
from olivine.evaluation.rule_judge import RuleJudge
from olivine.records import Answer, Question, Score

#: The details that define a question's kind, by the benchmarks' names; the first one that a question has counts.
_KINDS = ("detailed", "question_type", "setting", "task", "capabilities")


def majority(benchmark: Benchmark, questions: Sequence[Question]) -> Score:
    """Return the benchmark's own score of the most frequent reference of each kind of question.

    The kind is GQA's detailed type, VQAv2's question type, POPE's setting, MME's sub-task or MM-Vet's capabilities;
    elsewhere all questions are of one kind. References are counted on the scored questions themselves, so it is what
    the best constant answers get, not an estimate.

    Raises:
        DataError: a question has no reference, or the benchmark cannot be scored (as its `score` says).
    """
    counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts[_kind(question)].update(question.references)
    guesses = {kind: references.most_common(1)[0][0] for kind, references in counts.items() if references}
    answers = [Answer(question.id, guesses[_kind(question)]) for question in questions]
    return benchmark.score(questions, answers)


def majority_baseline_answers(name: str, folder: Path) -> dict[str, dict[str, float]]:
    """Return `{"majority": metrics}` of the benchmark whose files are in `folder`; MM-Vet's answers are graded by rule.

    Raises:
        RequestError, DataError: as the benchmark's `read` and `score`.
    """
    benchmark = benchmarks.get(name, judge=RuleJudge() if name == "mmvet" else None)
    return {"majority": dict(majority(benchmark, benchmark.read(folder)).metrics)}


def _kind(question: Question) -> Hashable:
    name = next((name for name in _KINDS if name in question.details), None)
    return None if name is None else (name, str(sorted(question.details[name], key=str)))
