"""Two models over a benchmark: the questions on which they disagree, their maps side by side, and the split.

Stitching is in `stitching`, the statistics in `difference_split`; the page's look is in `templates`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from olivine import __version__
from olivine.data.images import ImageSource, image_source
from olivine.errors import RequestError
from olivine.evaluation.benchmarks import Benchmark
from olivine.evaluation.run import read_questions
from olivine.explanation.boxes import KnownBoxes
from olivine.explanation.difference_split import LIMIT, PARTS, SWAPPED, difference_split
from olivine.explanation.explainer import Explainer
from olivine.explanation.methods.base import Method
from olivine.explanation.one_answer import template_environment
from olivine.explanation.over_benchmark import selected_questions
from olivine.explanation.overlay import data_uri, overlay
from olivine.explanation.stitching import (
    Stitches,
    check_stitchable,
    correctness,
    fit_stitches,
    fitting_images,
)
from olivine.files import write_json, write_text
from olivine.model.vlm import VisionLanguageModel
from olivine.records import Question
from olivine.statistics import generator

JSON, PAGE = "comparison.json", "comparison.html"
#: Questions shown on the page, of each direction.
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Comparison:
    """What to compare, and where its files go."""

    benchmark: Benchmark
    data: Path
    images: Path | None
    limit: int
    fit_images: Path
    fit_limit: int
    folder: Path
    names: tuple[str, str]


def compare_models(
    first: VisionLanguageModel,
    second: VisionLanguageModel,
    requested: Comparison,
    method: Method,
    on_answer: Callable[[int, int], None],
) -> dict[str, Any]:
    """Compare two models, write the JSON and the page, and return what the JSON holds.

    Raises:
        RequestError: the models' image tokens do not correspond, there are too few images to fit on, or the benchmark
            cannot be scored here.
        RunError: a question could not be answered.
    """
    check_stitchable(first, second)
    fit = fitting_images(requested.fit_images, requested.fit_limit)
    boxes = KnownBoxes(requested.data)
    questions = selected_questions(read_questions(requested.benchmark, requested.data), boxes, requested.limit)
    images = requested.images or requested.benchmark.images(requested.data)
    orders = [fit_stitches(first, second, fit), fit_stitches(second, first, fit)]
    runs = sum(4 + (order.swapped is not None) for order in orders)
    done = 0

    def answered() -> None:
        nonlocal done
        done += 1
        on_answer(done, runs * len(questions))

    correct = [_of_host(order, requested.benchmark, questions, images, answered) for order in orders]
    for one, other in ((0, 1), (1, 0)):
        correct[one]["other"] = correct[other]["own"]
    clusters = {question.id: question.cluster for question in questions if question.id in correct[0]["own"]}
    if not clusters:
        raise RequestError(f"{requested.benchmark.name}: none of these questions is scored.")
    decided = _disagreements(questions, correct[0]["own"], correct[1]["own"])
    found = {
        "models": list(requested.names),
        "benchmark": requested.benchmark.name,
        "fitted_on_images": len(fit),
        "split": difference_split(clusters, correct[0], correct[1]),
        "variance_explained": {"first as host": orders[0].maps, "second as host": orders[1].maps},
        "disagreements": {side: [question.id for question in of_side] for side, of_side in decided.items()},
        "version": __version__,
    }
    requested.folder.mkdir(parents=True, exist_ok=True)
    write_json(requested.folder / JSON, found)
    shown = _shown(Explainer(first), Explainer(second), decided, image_source(images), method)
    context = {
        "found": found,
        "parts": PARTS,
        "swapped": SWAPPED,
        "limit": LIMIT,
        "shown": shown,
        "method": method,
        "version": __version__,
    }
    write_text(requested.folder / PAGE, template_environment().get_template("comparison.html.j2").render(context))
    return found


def _of_host(
    order: Stitches,
    benchmark: Benchmark,
    questions: Sequence[Question],
    images: ImageSource | Path,
    on_answer: Callable[[], None],
) -> dict[str, dict[str, float]]:
    models = {name: getattr(order, name) for name in ("own", "own_tower", "tower", "connector")}
    if order.swapped is not None:
        models[SWAPPED] = order.swapped
    return {name: correctness(vlm, benchmark, questions, images, on_answer) for name, vlm in models.items()}


def _disagreements(
    questions: Sequence[Question], first: dict[str, float], second: dict[str, float]
) -> dict[str, list[Question]]:
    """Return the questions that only one model answers fully right, and the other fully wrong."""
    scored = [question for question in questions if question.id in first]
    return {
        "only the first is right": [q for q in scored if first[q.id] - second[q.id] == 1],
        "only the second is right": [q for q in scored if second[q.id] - first[q.id] == 1],
    }


def _shown(
    first: Explainer,
    second: Explainer,
    decided: dict[str, list[Question]],
    images: ImageSource,
    method: Method,
) -> list[dict[str, Any]]:
    """Return the page's questions, drawn at random by their ids alone, with both models' maps."""
    found = []
    for side, questions in decided.items():
        random = generator("disagreements shown", side, "\n".join(question.id for question in questions))
        for position in sorted(random.permutation(len(questions))[:_SHOWN]):
            question = questions[position]
            image = images.open(str(question.image))
            found.append(
                {
                    "side": side,
                    "question": question.prompt,
                    "truth": ", ".join(dict.fromkeys(question.references)),
                    "maps": [_map(explainer, question, image, method) for explainer in (first, second)],
                }
            )
    return found


def _map(explainer: Explainer, question: Question, image: Image.Image, method: Method) -> dict[str, str | None]:
    try:
        asked = explainer.ask(question.prompt, explainer.features(image), question.id)
    except RequestError:  # an empty answer: it is shown as such, without a map
        return {"answer": "", "overlay": None}
    case = explainer.case(asked)
    drawn = overlay(
        explainer.vlm.transform.fitted(image), case.grid.map(method.token_scores(case)), signed=method.signed
    )
    return {"answer": explainer.text(asked), "overlay": data_uri(drawn)}
