"""Methods measured over a benchmark's questions: which of them, and a file of figures that a killed run resumes.

What is measured about one question is in `measured_question`, the table in `method_table`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from olivine.contents import ContentIndex
from olivine.data.images import ImageSource, image_source
from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks import Benchmark
from olivine.evaluation.request import INDEX, image_contents, request_of
from olivine.evaluation.run import read_questions
from olivine.explanation.boxes import KnownBoxes
from olivine.explanation.explainer import Explainer
from olivine.explanation.measured_question import ImageOfQuestion, measure
from olivine.explanation.methods.base import Method
from olivine.explanation.token_grid import Corners, fitted_box
from olivine.files import append_json_line, keep_json_lines, read_json, read_json_lines, write_json
from olivine.records import Answer, AnswerState, Question
from olivine.stop import StopSignal

QUESTIONS, REQUEST = "questions.jsonl", "request.json"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure, and where its files go."""

    benchmark: Benchmark
    data: Path
    images: Path | None
    folder: Path
    limit: int
    methods: Sequence[Method]
    #: How many of the questions have the check with random weights too: it makes every map a second time.
    checked: int = 100


def selected_questions(questions: Sequence[Question], boxes: KnownBoxes, limit: int) -> list[Question]:
    """Return up to `limit` questions about one image each, spread over as many images as possible.

    Each image gives one in turn; of one image's, those whose objects' boxes are known come first.

    Raises:
        RequestError: there is none.
    """
    usable = [question for question in questions if question.image is not None]
    if not usable:
        raise RequestError("no question is about exactly one image, so there is nothing to explain.")
    by_image: dict[str, list[Question]] = {}
    for question in sorted(usable, key=lambda question: not boxes.of(question)):
        by_image.setdefault(str(question.image), []).append(question)
    turns = max(len(of_image) for of_image in by_image.values())
    ordered = [of_image[turn] for turn in range(turns) for of_image in by_image.values() if turn < len(of_image)]
    return ordered[:limit]


def measure_methods(
    explainer: Explainer,
    randomised: Explainer | None,
    weights: Path,
    requested: Measurement,
    on_question: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Measure the methods on a benchmark's questions, and return each question's figures, with `correct` added.

    Questions that the model answers with nothing are skipped: their figures have the key `skipped` alone.

    Raises:
        RequestError: no question can be explained, or the folder holds figures of another request.
        DataError: the benchmark's files are not valid, or an image cannot be read.
    """
    boxes = KnownBoxes(requested.data)
    questions = selected_questions(read_questions(requested.benchmark, requested.data), boxes, requested.limit)
    images = requested.images or requested.benchmark.images(requested.data)
    done = _begin(explainer, randomised is not None, weights, requested, questions, images)
    waiting = [question for question in questions if question.id not in done]
    checked = {question.id for question in questions[: requested.checked]}
    with StopSignal() as stop, stop.deferred():
        for question, image, square in _opened(explainer, waiting, questions, images, boxes):
            try:
                row = measure(
                    explainer,
                    requested.methods,
                    question,
                    image,
                    square,
                    randomised if question.id in checked else None,
                )
            except RequestError as error:
                row = {"question_id": question.id, "cluster": question.cluster, "skipped": str(error)}
            append_json_line(requested.folder / QUESTIONS, row)
            done[question.id] = row
            on_question(len(done), len(questions))
            stop.check(f"{len(done)} questions' figures are kept in {requested.folder}")
    return _with_correctness(requested.benchmark, questions, done)


def _begin(
    explainer: Explainer,
    randomised: bool,
    weights: Path,
    requested: Measurement,
    questions: Sequence[Question],
    images: ImageSource | Path,
) -> dict[str, dict[str, Any]]:
    """Return the figures that an earlier run of the same request left.

    Raises:
        RequestError: the folder holds those of another request.
    """
    folder = requested.folder
    names = {str(question.image) for question in questions}
    request = {
        **request_of(
            weights,
            requested.benchmark.name,
            questions,
            image_contents(images, names, ContentIndex(folder / INDEX)),
            control=None,
            max_new_tokens=requested.benchmark.max_new_tokens,
            model_id=str(weights),
        ),
        "methods": [{"name": method.name, **vars(method)} for method in requested.methods],
        "baseline": explainer.baseline,
        "randomised": requested.checked if randomised else 0,
    }
    if (folder / QUESTIONS).is_file():
        before = read_json(folder / REQUEST)
        if {**before, "model_id": ""} != {**request, "model_id": ""}:
            raise RequestError(
                f"{folder}: holds figures of another request (model, questions, methods or baseline). "
                "Choose another folder (--output), or remove it."
            )
        keep_json_lines(folder / QUESTIONS, lambda _row: True)  # drops a line that a kill cut short
        return {row["question_id"]: row for row in read_json_lines(folder / QUESTIONS)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REQUEST, request)
    return {}


def _opened(
    explainer: Explainer,
    waiting: Sequence[Question],
    questions: Sequence[Question],
    images: ImageSource | Path,
    boxes: KnownBoxes,
) -> Iterator[tuple[Question, ImageOfQuestion, list[Corners]]]:
    """Yield each question with its image's features, another image's, and its boxes in the tower's square."""
    source = image_source(images)
    names = sorted({str(question.image) for question in questions})
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    opened: dict[str, tuple[Image.Image, ImageOfQuestion]] = {}
    for question in waiting:
        name = str(question.image)
        if name not in opened:
            image = source.open(name)
            other = explainer.features(source.open(following[name])) if len(names) > 1 else explainer.blank_features()
            opened = {name: (image, ImageOfQuestion(explainer.features(image), other))}
        image, features = opened[name]
        fitted = [fitted_box(box, image.size, explainer.vlm.transform) for box in boxes.of(question)]
        yield question, features, [box for box in fitted if box is not None]


def _with_correctness(
    benchmark: Benchmark, questions: Sequence[Question], rows: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add each answer's correctness, 0 to 1; None where the benchmark cannot score without a judge or references."""
    measured = [question for question in questions if "skipped" not in rows[question.id]]
    answers = [Answer(question.id, rows[question.id]["answer"], AnswerState.ANSWERED) for question in measured]
    try:
        correct = {item.question_id: item.correct for item in benchmark.score(measured, answers).items}
    except (DataError, RequestError):
        correct = {}
    return [rows[question.id] | {"correct": correct.get(question.id)} for question in questions]
