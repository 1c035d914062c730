"""OCID-Ref: find the object on a cluttered table that a phrase refers to, by how cluttered the table is.

Boxes and their overlap are in `refcoco`. The point clouds that the data set also has are not read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.parsing import by_group, find_file, fraction, item_of, require_keys
from olivine.evaluation.benchmarks.refcoco import BOX_PROMPT, Box, in_pixels, iou, literal_box, rounded_fractions
from olivine.files import read_json
from olivine.records import Answer, Question, Score

#: Every image of OCID.
_WIDTH, _HEIGHT = 640, 480
#: The last take of a sequence at which the table is still that cluttered: objects separate, touching, stacked.
_CLUTTER = (("minimum", 9), ("medium", 16), ("maximum", 20))
_GOLD_FORMATS = ("xyxy-pixels", "xywh-pixels")


class OCIDRef(Benchmark):
    """OCID-Ref (data `lluma/OCID-Ref`; scored as `TRI-ML/vlm-evaluation:vlm_eval/tasks/harnesses/ocidref.py` does).

    Metrics, as fractions: `accuracy` (overlap of at least .25, the threshold of that tool, which it takes from the
    paper), `accuracy@0.5`, each also under `/minimum`, `/medium`, `/maximum` clutter, and `unreadable`. An answer must
    be a literal list of four fractions, as `literal_box` says; the gold box is rounded to two decimals. A missing
    answer is wrong. One cluster is one image; an item is right at .25.

    Args:
        gold: what the annotations' boxes are, xyxy-pixels or xywh-pixels. The data set's instruction.txt says corner
            and size, the scorer reads two corners; by default the file's own boxes decide, where only one of the two
            readings keeps them all inside the image.
    """

    name = "ocid-ref"
    declares = Declaration(
        title="OCID-Ref",
        metrics=(
            Metric("accuracy", "accuracy", scale=100.0, mean_of_items=True, reported=True),
            Metric("accuracy@0.5", "accuracy at an overlap of .5", scale=100.0),
            Metric("accuracy/*", "accuracy by clutter", scale=100.0),
            Metric("accuracy@0.5/*", "accuracy at an overlap of .5 by clutter", scale=100.0),
            Metric("unreadable", "answers without a box", scale=100.0, lower_is_better=True),
        ),
        cluster="image",
        reply="box",
        files=("val_expressions.json or another split's, or its folder",),
    )
    variants = ("prismatic",)

    def __init__(self, gold: str | None = None) -> None:
        if gold is not None and gold not in _GOLD_FORMATS:
            raise RequestError(f"{self.name}: no box format {gold!r}. Valid: {', '.join(_GOLD_FORMATS)}.")
        self._gold = gold

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read val_expressions.json (or another split's), or the folder that holds it."""
        self.choose_prompt(prompt)
        file = find_file(path, ("val_expressions.json",), "OCID-Ref expressions")
        rows = read_json(file)
        if not isinstance(rows, dict):
            raise DataError(f"{file}: a JSON {type(rows).__name__}; expected one object keyed by sentence id.")
        numbers = {key: _numbers(row, f"{file}: sentence {key!r}") for key, row in rows.items()}
        gold = self._gold or _gold_format(numbers, file)
        boxes = {key: in_pixels(box, gold, _WIDTH, _HEIGHT) for key, box in numbers.items()}
        astray = [key for key, box in boxes.items() if not _inside(box)]
        if astray:
            raise DataError(f"{file}: sentence {astray[0]!r}: box {tuple(boxes[astray[0]])} is not inside 640x480.")
        return [_question(key, row, boxes[key]) for key, row in rows.items()]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Share of phrases whose object is found, in total and by clutter."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        said = [literal_box(texts.get(question.id, "")) for question in questions]
        gold = [rounded_fractions(question.details["box"], _WIDTH, _HEIGHT) for question in questions]
        overlaps = [0.0 if s is None else iou(s, g) for s, g in zip(said, gold, strict=True)]
        items = [
            item_of(question, texts, float(value >= 0.25), read=box is not None)
            for question, value, box in zip(questions, overlaps, said, strict=True)
        ]
        metrics: dict[str, float] = {}
        for name, threshold in (("accuracy", 0.25), ("accuracy@0.5", 0.5)):
            right = [float(value >= threshold) for value in overlaps]
            clutter = (question.details["clutter"] for question in questions)
            metrics |= {name: fraction(right)} | by_group(name, zip(clutter, right, strict=True), fraction)
        metrics["unreadable"] = fraction([float(box is None) for box in said])
        return self.result(selected, metrics, items, missing)


def _numbers(row: Any, where: str) -> Box:
    require_keys(row, ("scene_path", "take_id", "sentence", "bbox"), where)
    if not isinstance(row["take_id"], int) or not 0 <= row["take_id"] <= _CLUTTER[-1][1]:
        raise DataError(f"{where}: take_id {row['take_id']!r}; expected 0 to {_CLUTTER[-1][1]}.")
    try:
        # The official files hold the box as text.
        numbers = json.loads(row["bbox"]) if isinstance(row["bbox"], str) else row["bbox"]
        return Box(*map(float, numbers))
    except (ValueError, TypeError):
        raise DataError(f"{where}: bbox {row['bbox']!r}; expected four numbers.") from None


def _gold_format(numbers: Mapping[str, Box], file: Path) -> str:
    fitting = [
        gold
        for gold in _GOLD_FORMATS
        if all(_inside(in_pixels(box, gold, _WIDTH, _HEIGHT)) for box in numbers.values())
    ]
    if len(fitting) != 1:
        raise DataError(
            f"{file}: the boxes fit {' and '.join(fitting) or 'neither of the two readings'} in 640x480. Say which "
            f"they are: {' or '.join(_GOLD_FORMATS)}."
        )
    return fitting[0]


def _inside(box: Box) -> bool:
    return 0 <= box.left < box.right <= _WIDTH and 0 <= box.top < box.bottom <= _HEIGHT


def _question(key: str, row: Mapping[str, Any], box: Box) -> Question:
    return Question(
        id=key,
        prompt=BOX_PROMPT + row["sentence"],
        image=row["scene_path"],
        cluster=row["scene_path"],
        details={"box": box, "clutter": next(name for name, last in _CLUTTER if row["take_id"] <= last)},
    )
