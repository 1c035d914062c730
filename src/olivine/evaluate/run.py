"""One evaluation: questions from a benchmark, answers from a model, scores, and the three files they leave.

`answers.jsonl` grows as answers come, so that a killed evaluation goes on; `items.jsonl` and `scores.json` follow.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from olivine.errors import RequestError, RunError
from olivine.evaluate.answers import read_answers, to_row
from olivine.evaluate.benchmarks import Benchmark
from olivine.evaluate.engine import AnsweringEngine
from olivine.files import append_json_line, read_json, sha256_of_file, write_json, write_json_lines
from olivine.model.vlm import VisionLanguageModel
from olivine.records import Answer, AnswerState, Question, Score

ANSWERS, ITEMS, SCORES, REQUEST = "answers.jsonl", "items.jsonl", "scores.json", "request.json"


#: Asking without pictures, or with another question's: how far does a model get that does not look?
Control = Literal["blind", "shuffled"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is evaluated, and where its files go."""

    benchmark: Benchmark
    data: Path
    images: Path | None
    folder: Path
    model_id: str
    control: Control | None = None
    prompt: str | None = None
    variant: str | None = None


def evaluate(
    vlm: VisionLanguageModel, weights: Path, wanted: Evaluation, on_answer: Callable[[int, int], None]
) -> Score:
    """Answer what is not yet answered, score all, write the files.

    `on_answer` is told (answered, of how many) as it goes.

    Raises:
        RunError: some questions could not be answered (they are named, and not scored as wrong).
        DataError: the benchmark's files are not what they must be.
    """
    questions = wanted.benchmark.read(wanted.data, wanted.prompt)
    request = _request(weights, wanted, questions)
    answers = {a.question_id: a for a in _earlier_answers(wanted.folder, request)}
    wanted.folder.mkdir(parents=True, exist_ok=True)
    write_json(wanted.folder / REQUEST, request)
    by_id = {question.id: question for question in questions}
    write_json_lines(
        wanted.folder / ANSWERS, [to_row(a, by_id[i], wanted.model_id) for i, a in answers.items() if i in by_id]
    )

    engine = AnsweringEngine(vlm, max_new_tokens=wanted.benchmark.max_new_tokens)
    images = wanted.images or wanted.benchmark.images(wanted.data)
    asked = controlled(questions, wanted.control)
    on_answer(len(answers), len(questions))
    for answer in engine.answer([question for question in asked if question.id not in answers], images):
        answers[answer.question_id] = answer
        append_json_line(wanted.folder / ANSWERS, to_row(answer, by_id[answer.question_id], wanted.model_id))
        on_answer(len(answers), len(questions))
    ordered = [answers[question.id] for question in questions]
    write_json_lines(wanted.folder / ANSWERS, [to_row(a, by_id[a.question_id], wanted.model_id) for a in ordered])
    _stop_if_failed(ordered, wanted.folder)
    score = wanted.benchmark.score(questions, ordered, wanted.variant)
    about = {"control": wanted.control, "model": wanted.model_id, **wanted.benchmark.judged_by()}
    write_score(score, wanted.folder, questions, about)
    return score


def controlled(questions: Sequence[Question], control: Control | None) -> list[Question]:
    """The questions as they are asked: without pictures, or each picture's questions about another picture.

    Which other is fixed: pictures in the order of their names, each gives way to the next.

    Raises:
        RequestError: there is only one picture, so no other to show.
    """
    if control is None:
        return list(questions)
    names = sorted({question.image for question in questions if question.image is not None})
    if control == "shuffled" and len(names) == 1:
        raise RequestError("--shuffled: the questions have a single picture; there is no other to show.")
    shown: dict[str | None, str | None] = {None: None}
    for name, following in zip(names, names[1:] + names[:1], strict=True):
        shown[name] = following if control == "shuffled" else None
    return [replace(question, image=shown[question.image]) for question in questions]


def write_score(score: Score, folder: Path, questions: Sequence[Question], about: dict[str, Any]) -> None:
    """Write `items.jsonl` (question, picture, unit, correctness) and `scores.json`."""
    image_of = {question.id: question.image for question in questions}
    rows = (
        {"question_id": i.question_id, "image_id": image_of[i.question_id], "unit": i.unit, "correct": i.correct}
        for i in score.items
    )
    write_json_lines(folder / ITEMS, rows)
    write_json(folder / SCORES, {**score.summary(), **about})


def _request(weights: Path, wanted: Evaluation, questions: Sequence[Question]) -> dict[str, Any]:
    """What decides the answers; answers to another request are not gone on with."""
    asked = [[question.id, question.prompt, question.image] for question in questions]
    return {
        "benchmark": wanted.benchmark.name,
        "weights": sorted([file.name, sha256_of_file(file)] for file in weights.glob("*.safetensors")),
        "questions": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        "control": wanted.control,
        "max_new_tokens": wanted.benchmark.max_new_tokens,
    }


def _earlier_answers(folder: Path, request: dict[str, Any]) -> list[Answer]:
    if not (folder / REQUEST).is_file() or not (folder / ANSWERS).is_file() or read_json(folder / REQUEST) != request:
        return []
    return [a for a in read_answers(folder / ANSWERS, allow_cut_end=True) if a.state is not AnswerState.FAILED]


def _stop_if_failed(answers: Sequence[Answer], folder: Path) -> None:
    failed = [answer for answer in answers if answer.state is AnswerState.FAILED]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(answers)} questions could not be answered, so there is no score. First: question "
            f"{failed[0].question_id!r}: {failed[0].error} The others are kept in {folder / ANSWERS}; mend this and "
            "evaluate again."
        )
