"""Small files for benchmark tests, and paths of the real ones; contains no tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from olivine.evaluation.benchmarks.base import Benchmark
from olivine.files import write_json_lines
from olivine.records import Answer, Question, Score

_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(relative: str) -> Path:
    """Return a file or folder of real data beside the repository; skip the test if there is none."""
    path = _DATA / relative
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    return path


def llava_lines(path: Path, texts: Mapping[str, str], prompts: Mapping[str, str] | None = None) -> Path:
    """Write LLaVA's answer file with these texts (and prompts, if given) by question id."""
    rows = [{"question_id": key, "text": text} for key, text in texts.items()]
    write_json_lines(path, [row | ({"prompt": prompts[row["question_id"]]} if prompts else {}) for row in rows])
    return path


def scored(
    benchmark: Benchmark, questions: Sequence[Question], texts: Sequence[str], variant: str | None = None
) -> Score:
    """Return the score of one text per question; what it says must be as the benchmark declares."""
    answers = [Answer(question.id, text) for question, text in zip(questions, texts, strict=True)]
    score = benchmark.score(questions, answers, variant)
    require_as_declared(benchmark, score)
    return score


def require_as_declared(benchmark: Benchmark, score: Score) -> None:
    """Fail unless every metric is declared, in its range, and the mean of the items if it is declared so."""
    for name, official in score.metrics.items():
        metric = benchmark.declares.metric(name, score.variant)
        assert metric is not None, f"{score.benchmark} ({score.variant}) does not declare {name}"
        low, high = metric.range
        assert low - 1e-9 <= metric.shown(official) <= (float("inf") if high is None else high) + 1e-9, name
        if metric.mean_of_items and score.items:
            mean = 100 * sum(item.correct for item in score.items) / len(score.items)
            assert metric.shown(official) == pytest.approx(mean, abs=0.051), name  # MM-Vet rounds to one decimal


def corrects(score: Score) -> list[float]:
    """Return the items' correctness in order."""
    return [item.correct for item in score.items]
