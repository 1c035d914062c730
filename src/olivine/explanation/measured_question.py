"""Everything that is measured about one question: each method's map against curves, boxes and random weights.

Which questions, and what becomes of the figures, is in `over_benchmark` and `method_table`.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from olivine.explanation.case import Case
from olivine.explanation.explainer import Explainer
from olivine.explanation.faithfulness import areas, order_of
from olivine.explanation.image_share import image_share
from olivine.explanation.methods.base import Method
from olivine.explanation.pointing import covered, hit_cells, mass_inside
from olivine.explanation.randomised import rank_correlation
from olivine.explanation.token_grid import Corners
from olivine.records import Question


@dataclass(frozen=True, slots=True)
class ImageOfQuestion:
    """An image's features, another's, and the features of the same image for a model with random weights."""

    features: Tensor
    other: Tensor


def measure(
    explainer: Explainer,
    methods: Sequence[Method],
    question: Question,
    image: ImageOfQuestion,
    boxes: Sequence[Corners],
    randomised: Explainer | None,
) -> dict[str, Any]:
    """Return a question's figures as plain values; the answer's first token is explained.

    Args:
        explainer: the model.
        methods: whose maps are measured.
        question: about one image.
        image: its features and another image's.
        boxes: of what it is about, in the tower's square; empty if unknown.
        randomised: the same model with random weights; None leaves that check out.
    """
    asked = explainer.ask(question.prompt, image.features, question.id)
    case = explainer.case(asked)
    share = image_share(explainer, asked, (0,), image.other)
    maps, seconds = _maps(case, methods)
    of_methods = {name: {"seconds": seconds[name]} for name in maps}
    by_order, chance = areas(case, maps)
    for name, (deletion, insertion) in by_order.items():
        of_methods[name] |= {"deletion": deletion, "insertion": insertion}
    if boxes:
        _judge_by_boxes(case, maps, boxes, float(explainer.vlm.transform.size), of_methods)
    if randomised is not None:
        without, _ = _maps(randomised.case(asked), methods)
        for name, scores in maps.items():
            of_methods[name]["randomised"] = rank_correlation(case.grid, scores, without[name])
    return {
        "question_id": question.id,
        "cluster": question.cluster,
        "answer": explainer.text(asked),
        "objects": len(boxes),
        "decided_by_image": share.decided,
        "probability": {
            "with_image": math.exp(share.with_image),
            "blind": math.exp(share.blind),
            "other_image": math.exp(share.other),
        },
        "random_orders": {"deletion": chance[0], "insertion": chance[1]},
        "methods": of_methods,
    }


def _maps(case: Case, methods: Sequence[Method]) -> tuple[dict[str, Tensor], dict[str, float]]:
    maps, seconds = {}, {}
    for method in methods:
        began = time.perf_counter()
        maps[method.name] = method.token_scores(case)
        seconds[method.name] = time.perf_counter() - began
    return maps, seconds


def _judge_by_boxes(
    case: Case, maps: Mapping[str, Tensor], boxes: Sequence[Corners], size: float, found: dict[str, dict[str, float]]
) -> None:
    hits, cover = hit_cells(case.grid, boxes, size), covered(case.grid, boxes, size)
    for name, scores in maps.items():
        found[name]["pointing"] = float(hits[int(order_of(case, scores)[0])])
        found[name]["mass"] = mass_inside(case.grid, scores, cover)
