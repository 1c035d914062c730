"""One evaluation: questions from a benchmark, answers from a model, scores, and the three files that it writes.

`answers.jsonl` (in `answer_log`) comes first, so that a killed evaluation resumes; `items.jsonl`, `scores.json` follow.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from olivine.contents import ContentIndex
from olivine.data.image_marks import user_turn, without_images
from olivine.data.images import ImageSource
from olivine.distributed import Processes
from olivine.errors import DataError, RequestError, RunError
from olivine.evaluation.answer_log import ANSWERS, AnswerLog
from olivine.evaluation.benchmarks import Benchmark
from olivine.evaluation.benchmarks.types import require_types, shortened
from olivine.evaluation.engine import AnsweringEngine
from olivine.evaluation.request import INDEX, image_contents, request_of
from olivine.files import write_json, write_json_lines
from olivine.model.vlm import VisionLanguageModel
from olivine.records import Answer, AnswerState, Control, Question, Score
from olivine.stop import StopSignal

ITEMS, SCORES = "items.jsonl", "scores.json"
#: A message names at most this many failed questions; all of them are in `answers.jsonl`.
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate, and where to write its files."""

    benchmark: Benchmark
    data: Path
    images: Path | None
    folder: Path
    model_id: str
    control: Control | None = None
    prompt: str | None = None
    variant: str | None = None
    #: Whether answers in the folder to a different request (another model, say) may be removed.
    replace: bool = False


def evaluate(
    vlm: VisionLanguageModel,
    weights: Path,
    requested: Evaluation,
    on_answer: Callable[[int, int], None],
    processes: Processes = Processes(),  # noqa: B008  # immutable
) -> Score:
    """Answer the questions that are not yet answered, score all answers, write the files.

    Each of several processes answers the questions about its own images; the first one scores and writes, and all
    return the score. `on_answer` is called with (answered, total), in each process for its own share.

    Raises:
        RequestError: there is no question, some have no text, or the folder holds answers of another model or to other
            questions.
        RunError: some questions could not be answered, even individually (they are reported, not scored as wrong).
        DataError: the benchmark's files are not valid.
    """
    questions = read_questions(requested.benchmark, requested.data, requested.prompt)
    _require_texts(questions, requested)
    asked = controlled(questions, requested.control)
    images = requested.images or requested.benchmark.images(requested.data)
    log = AnswerLog(requested.folder, questions, requested.model_id)
    answers = processes.run_on_first(lambda: _begin(log, requested, weights, questions, asked, images))
    share = shares([question for question in asked if question.id not in answers], processes.world_size)[processes.rank]
    engine = AnsweringEngine(vlm, max_new_tokens=requested.benchmark.max_new_tokens)
    mine: list[Answer] = []
    on_answer(len(answers), len(answers) + len(share))
    with StopSignal() as stop, stop.deferred():
        for answer in _retried_individually(engine, share, images):
            log.append(answer, processes)
            mine.append(answer)
            on_answer(len(answers) + len(mine), len(answers) + len(share))
            stop.check(f"{len(answers) + len(mine)} answers are kept in {requested.folder}")
    answers |= {answer.question_id: answer for of_one in processes.gather(mine) for answer in of_one}
    ordered = [answers[question.id] for question in questions]
    return processes.run_on_first(lambda: _finish(log, requested, questions, ordered))


def shares(questions: Sequence[Question], count: int) -> list[list[Question]]:
    """Split the questions into `count` shares of about equal size; all about the same images are in one, in order."""
    by_image: dict[tuple[str, ...], list[Question]] = {}
    for question in questions:
        by_image.setdefault(question.all_images or (f"no image: {question.id}", ""), []).append(question)
    split: list[list[Question]] = [[] for _ in range(count)]
    for of_image in by_image.values():
        min(split, key=len).extend(of_image)
    return split


def _retried_individually(
    engine: AnsweringEngine, questions: Sequence[Question], images: ImageSource | Path | None
) -> Iterator[Answer]:
    """Yield every question's answer; failed ones are retried individually at the end and only then reported."""
    by_id = {question.id: question for question in questions}
    failed = []
    for answer in engine.answer(questions, images):
        if answer.state is AnswerState.FAILED:
            failed.append(by_id[answer.question_id])
        else:
            yield answer
    for question in failed:
        yield from engine.answer([question], images)


def _begin(
    log: AnswerLog,
    requested: Evaluation,
    weights: Path,
    questions: Sequence[Question],
    asked: Sequence[Question],
    images: ImageSource | Path,
) -> dict[str, Answer]:
    used = [image for question in asked for image in question.all_images]
    request = request_of(
        weights,
        requested.benchmark.name,
        questions,
        image_contents(images, used, ContentIndex(requested.folder / INDEX)) if used else {},
        control=requested.control,
        max_new_tokens=requested.benchmark.max_new_tokens,
        model_id=requested.model_id,
    )
    answers = log.begin(request, {question.id: question.all_images for question in asked}, replace=requested.replace)
    if len(answers) < len(questions):
        for name in (ITEMS, SCORES):  # a score must not outlive its answers
            (requested.folder / name).unlink(missing_ok=True)
    return answers


def _finish(log: AnswerLog, requested: Evaluation, questions: Sequence[Question], answers: Sequence[Answer]) -> Score:
    log.finish(answers)
    _stop_if_failed(answers, requested.folder)
    score = requested.benchmark.score(questions, answers, requested.variant)
    about = {"control": requested.control, "model": requested.model_id, **requested.benchmark.judged_by(score.variant)}
    write_score(score, requested.folder, questions, about)
    return score


def controlled(questions: Sequence[Question], control: Control | None) -> list[Question]:
    """Return the questions as they are asked: without images, or each image's questions with another image.

    The other image is fixed: in the order of their names, each image is replaced by the next one.

    Raises:
        RequestError: there is only one image, so there is no other.
    """
    if control is None:
        return list(questions)
    names = sorted({image for question in questions for image in question.all_images})
    if control == "shuffled" and len(names) == 1:
        raise RequestError("--shuffled: all questions are about a single image; there is no other to use.")
    if control == "blind":
        return [without_images(question) for question in questions]
    other = dict(zip(names, names[1:] + names[:1], strict=True))
    return [
        replace(
            question,
            image=None if question.image is None else other[question.image],
            images=tuple(other[image] for image in question.images),
        )
        for question in questions
    ]


def write_score(score: Score, folder: Path, questions: Sequence[Question], about: dict[str, Any]) -> None:
    """Write `items.jsonl` (question, image, cluster, correctness, state of the answer) and `scores.json`."""
    image_of = {question.id: list(question.images) or question.image for question in questions}
    rows = (
        {
            "question_id": item.question_id,
            "image_id": image_of[item.question_id],
            "cluster": item.cluster,
            "correct": item.correct,
            "state": item.state.value,
        }
        for item in score.items
    )
    write_json_lines(folder / ITEMS, rows)
    write_json(folder / SCORES, {**score.summary(), **about})


def read_questions(benchmark: Benchmark, data: Path, prompt: str | None = None) -> list[Question]:
    """Return a benchmark's questions, at least one, with the types that answering and scoring expect.

    Raises:
        RequestError: there is no question, and so no score.
        DataError: a file is missing or of another benchmark, or a value has the wrong type.
    """
    try:
        questions = benchmark.read(data, prompt)
    except (TypeError, AttributeError, KeyError, IndexError, ValueError, RecursionError) as error:
        raise DataError(
            f"{data}: not in the format of {benchmark.name}: a value has an unexpected type "
            f"({type(error).__name__}: {str(error)[:200]}). Is there a number, null or object where text is expected?"
        ) from None
    if not questions:
        raise RequestError(f"{benchmark.name}: no questions in {data}. Is the file empty, or of another benchmark?")
    for number, question in enumerate(questions, start=1):
        require_types(
            {"text": question.prompt, "image": question.image, "id": question.id},
            f"{data}: question {number} (id {shortened(question.id)})",
            text=("text", "id"),
            text_or_nothing=("image",),
        )
        _require_images(question, f"{data}: question {number} (id {shortened(question.id)})")
    return questions


def _require_images(question: Question, where: str) -> None:
    if not question.images:
        return
    if question.image is not None or not all(isinstance(image, str) for image in question.images):
        raise DataError(f"{where}: expected its only image in `image`, or several names in `images`.")
    try:
        user_turn(question.prompt, len(question.images))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _require_texts(questions: Sequence[Question], requested: Evaluation) -> None:
    textless = [question for question in questions if not question.prompt.strip()]
    if textless:
        raise RequestError(
            f"{requested.benchmark.name}: {len(textless)} of {len(questions)} questions in {requested.data} have no "
            f"text (first: {textless[0].id!r}). {requested.benchmark.where_texts_are}"
        )


def _stop_if_failed(answers: Sequence[Answer], folder: Path) -> None:
    failed = [answer for answer in answers if answer.state is AnswerState.FAILED]
    if not failed:
        return
    named = [f"  question {answer.question_id!r}: {answer.error}" for answer in failed[:_MOST_NAMED]]
    if len(failed) > _MOST_NAMED:
        named.append(f"  and {len(failed) - _MOST_NAMED} more: state failed in {folder / ANSWERS}")
    raise RunError(
        f"{len(failed)} of {len(answers)} questions could not be answered in two tries each, so there is no score:\n"
        + "\n".join(named)
        + "\nThe other answers are kept. Fix this and run the same command again: only these questions are asked."
    )
