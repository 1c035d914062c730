"""RefCOCO, RefCOCO+ and RefCOCOg: draw the box around what a phrase refers to; and the boxes that this needs.

Segmentation is not here, nor is captioning of regions (what lmms-eval's plain refcoco tasks score).
"""

import ast
import io
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.parsing import by_group, fraction, item_of, require_keys
from olivine.files import read_json, read_json_lines
from olivine.records import Answer, Question, Score

#: LLaVA-1.5's and Prismatic's wording, before the phrase.
BOX_PROMPT = "Please provide the bounding box coordinate of the region this sentence describes: "
#: lmms-eval's, before the former.
_EXPLAINED = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. "
)
#: What the four numbers of an answer are: corners as fractions of the image, corners as fractions of the image
#: padded to a square (the longer side, image in the middle), corners in pixels, corner and size in pixels.
BOX_FORMATS = ("xyxy", "xyxy-padded", "xyxy-pixels", "xywh-pixels")

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BRACKETED = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_DATASETS = ("refcoco", "refcoco+", "refcocog")
#: Which partition is read where a data set comes with several: those that papers report.
_SPLIT_BY = ("unc", "umd", "google")


class Box(NamedTuple):
    """Left, top, right, bottom: in pixels, or as fractions of the image's sides."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Negative where one pair of edges is swapped."""
        return (self.right - self.left) * (self.bottom - self.top)

    def scaled(self, x: float, y: float) -> "Box":
        """Left and right times `x`, top and bottom times `y`."""
        return Box(self.left * x, self.top * y, self.right * x, self.bottom * y)


def iou(one: Box, other: Box) -> float:
    """Intersection over union of continuous boxes, 0 where the union is nothing."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    intersection = max(0.0, width) * max(0.0, height)
    union = one.area + other.area - intersection
    return intersection / union if union else 0.0


def iou_of_pixels(one: Box, other: Box) -> float:
    """Intersection over union as `lichengunc/refer` computes it on left, top, width, height in pixels.

    The last pixel is `left + width - 1`, and boxes that share but one row or column of pixels do not meet.
    """
    if min(one.right - one.left, one.bottom - one.top) <= 0:
        return 0.0
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    intersection = width * height if width > 1 and height > 1 else 0.0
    return intersection / (one.area + other.area - intersection)


def box_in(text: str) -> Box | None:
    """Return the first four numbers in square brackets (as lmms-eval finds them), `None` if there are none."""
    found = _BRACKETED.search(text)
    return Box(*map(float, found.groups())) if found else None


def literal_box(text: str) -> Box | None:
    """Return the box if the whole answer is a list of four numbers in [0, 1] with left < right and top < bottom.

    Prismatic's rule (`TRI-ML/vlm-evaluation:vlm_eval/tasks/harnesses/refcoco.py`); `None` for anything else.
    """
    try:
        numbers = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(_is_fraction(n) for n in numbers):
        return None
    box = Box(*map(float, numbers))
    return box if box.left < box.right and box.top < box.bottom else None


def in_pixels(box: Box, box_format: str, width: int, height: int) -> Box:
    """Return the corners in pixels of a box given as one of `BOX_FORMATS`, in an image of `width` x `height`."""
    if box_format == "xyxy":
        return box.scaled(width, height)
    if box_format == "xyxy-padded":
        side = max(width, height)
        x, y = (side - width) / 2, (side - height) / 2
        left, top, right, bottom = box.scaled(side, side)
        return Box(left - x, top - y, right - x, bottom - y)
    if box_format == "xywh-pixels":
        return Box(box.left, box.top, box.left + box.right, box.top + box.bottom)
    return box


def choose_format(name: str, box_format: str) -> str:
    """`box_format` if it is one of `BOX_FORMATS`.

    Raises:
        RequestError: it is not.
    """
    if box_format not in BOX_FORMATS:
        raise RequestError(f"{name}: no box format {box_format!r}. Valid: {', '.join(BOX_FORMATS)}.")
    return box_format


class RefCOCO(Benchmark):
    """RefCOCO, RefCOCO+ and RefCOCOg (`lichengunc/refer` for the data and the overlap of boxes).

    Metrics, as fractions: `accuracy` over all phrases, `accuracy/DATASET`, `accuracy/DATASET/SPLIT`, and `unreadable`
    (answers without a box; they are wrong, as a missing answer is). One cluster is one image. Splits other than train
    are asked.

    Variants:

    - `official`: overlap above .5 counted in whole pixels, as `iou_of_pixels` does. The answer's box is the first
      four numbers in square brackets.
    - `prismatic`: overlap of at least .5 of continuous boxes as fractions of the image, the gold box rounded to
      two decimals; the answer must be a literal list and nothing else, as `literal_box` says.
    - `lmms-eval` (`lmms_eval/tasks/refcoco/utils_rec.py`): overlap of at least .5 of continuous boxes; an answer
      without a box counts as an empty one at the corner. It adds `iou` (mean), `accuracy@0.1` to `accuracy@0.9`,
      and `center` (the centre of the answer's box is in the gold one).

    Args:
        boxes: what the numbers of an answer are, one of `BOX_FORMATS`. Models trained on LLaVA's mixture draw boxes
            in the image padded to a square: `xyxy-padded` takes that off again.
    """

    name = "refcoco"
    declares = Declaration(
        title="RefCOCO",
        metrics=(
            Metric("accuracy", "accuracy", scale=100.0, mean_of_items=True, reported=True),
            Metric("accuracy/*", "accuracy by data set and split", scale=100.0),
            Metric("unreadable", "answers without a box", scale=100.0, lower_is_better=True),
            Metric("accuracy@*", "accuracy at an overlap of that", scale=100.0, variants=("lmms-eval",)),
            Metric("iou", "mean overlap", scale=100.0, variants=("lmms-eval",)),
            Metric("center", "centres in the gold box", scale=100.0, variants=("lmms-eval",)),
        ),
        cluster="image",
        reply="box",
        files=("a data set's folder (`instances.json`, `refs(unc).p`), the folder of the three, or JSON lines",),
    )
    variants = ("official", "prismatic", "lmms-eval")
    prompts = ("llava-1.5", "lmms-eval")

    def __init__(self, boxes: str = "xyxy") -> None:
        self._format = choose_format(self.name, boxes)

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read a data set's folder, the folder of the three, or JSON lines with everything said in each.

        A data set's folder holds `instances.json` and `refs(unc).p` (or another partition's: unc before umd before
        google), or the same list as `refs(unc).json`. The pickle is read by a reader that admits lists, dictionaries,
        texts and numbers and nothing that runs code. An id is `DATASET-SENT_ID`.

        A line holds `question_id`, `image`, `text` (the phrase), `bbox`, `bbox_format` (xyxy-pixels or xywh-pixels),
        `width`, `height`, and may hold `dataset` and `split`.
        """
        lead = {"llava-1.5": BOX_PROMPT, "lmms-eval": _EXPLAINED + BOX_PROMPT}[self.choose_prompt(prompt)]
        if not path.is_dir():
            return list(_converted(path, lead))
        inner = [path / name for name in _DATASETS if (path / name / "instances.json").is_file()]
        folders = [path] if (path / "instances.json").is_file() else inner
        if not folders:
            raise DataError(f"{path}: no instances.json here or in {', '.join(_DATASETS)} below. Check the path.")
        return [question for folder in folders for question in _official(folder, lead)]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Share of phrases whose box is found."""
        selected = self.choose_variant(variant)
        if selected == "prismatic" and self._format != "xyxy":
            raise RequestError(f"{self.name}: the variant prismatic reads boxes as xyxy only, not {self._format}.")
        texts, missing = self.matched(questions, answers, selected)
        pairs = [_boxes(question, texts.get(question.id, ""), selected, self._format) for question in questions]
        overlap = iou_of_pixels if selected == "official" else iou
        overlaps = [0.0 if said is None else overlap(said, gold) for said, gold in pairs]
        right = [value > 0.5 if selected == "official" else value >= 0.5 for value in overlaps]
        items = [
            item_of(question, texts, float(ok), read=said is not None)
            for question, ok, (said, _) in zip(questions, right, pairs, strict=True)
        ]
        correct = [item.correct for item in items]
        metrics = {"accuracy": fraction(correct)}
        for keys in (("dataset",), ("dataset", "split")):
            groups = ("/".join(question.details[key] for key in keys) for question in questions)
            metrics |= by_group("accuracy", zip(groups, correct, strict=True), fraction)
        metrics["unreadable"] = fraction([float(said is None) for said, _ in pairs])
        if selected == "lmms-eval":
            metrics |= {f"accuracy@{t}": fraction([float(v >= t) for v in overlaps]) for t in (0.1, 0.3, 0.5, 0.7, 0.9)}
            metrics["iou"] = fraction(overlaps)
            metrics["center"] = fraction([float(_centred(said or Box(0, 0, 0, 0), gold)) for said, gold in pairs])
        return self.result(selected, metrics, items, missing)


def _boxes(question: Question, text: str, variant: str, box_format: str) -> tuple[Box | None, Box]:
    """Return the answer's box and the gold one as the variant compares them: in pixels, or as image fractions."""
    gold: Box = question.details["box"]
    width, height = question.details["size"]
    if variant == "prismatic":
        return literal_box(text), rounded_fractions(gold, width, height)
    said = box_in(text)
    if variant == "official":
        return said and in_pixels(said, box_format, width, height), gold
    if said and box_format != "xyxy":
        said = in_pixels(said, box_format, width, height).scaled(1 / width, 1 / height)
    return said, _fractions(gold, width, height)


def rounded_fractions(box: Box, width: int, height: int) -> Box:
    """Convert a gold box in pixels to fractions of the image with two decimals, as Prismatic compares it."""
    return Box(*(round(edge, 2) for edge in _fractions(box, width, height)))


def _fractions(box: Box, width: int, height: int) -> Box:
    return Box(box.left / width, box.top / height, box.right / width, box.bottom / height)


def _is_fraction(number: Any) -> bool:
    return isinstance(number, int | float) and 0 <= number <= 1


def _centred(said: Box, gold: Box) -> bool:
    x, y = (said.left + said.right) / 2, (said.top + said.bottom) / 2
    return gold.left <= x <= gold.right and gold.top <= y <= gold.bottom


def _official(folder: Path, lead: str) -> Iterator[Question]:
    """Return the phrases of one data set, from its refs and COCO instances."""
    instances = read_json(folder / "instances.json")
    require_keys(instances, ("images", "annotations"), str(folder / "instances.json"))
    sizes = {image["id"]: (image["width"], image["height"]) for image in instances["images"]}
    boxes = {annotation["id"]: annotation["bbox"] for annotation in instances["annotations"]}
    file = _refs_file(folder)
    for number, ref in enumerate(_read_refs(file), start=1):
        where = f"{file}: ref {number}"
        require_keys(ref, ("ann_id", "image_id", "split", "sentences"), where)
        if ref["split"] == "train":
            continue
        if ref["ann_id"] not in boxes or ref["image_id"] not in sizes:
            raise DataError(f"{where}: its annotation or image is not in {folder / 'instances.json'}.")
        box = in_pixels(_box(boxes[ref["ann_id"]], where), "xywh-pixels", *sizes[ref["image_id"]])
        for sentence in ref["sentences"]:
            require_keys(sentence, ("sent", "sent_id"), where)
            image = f"COCO_train2014_{ref['image_id']:012d}.jpg"
            yield Question(
                id=f"{folder.name}-{sentence['sent_id']}",
                prompt=lead + sentence["sent"],
                image=image,
                cluster=image,
                details=_details(box, sizes[ref["image_id"]], folder.name, ref["split"], where),
            )


def _converted(path: Path, lead: str) -> Iterator[Question]:
    keys = ("question_id", "image", "text", "bbox", "bbox_format", "width", "height")
    for number, row in enumerate(read_json_lines(path), start=1):
        where = f"{path}: line {number}"
        require_keys(row, keys, where)
        if row["bbox_format"] not in ("xyxy-pixels", "xywh-pixels"):
            raise DataError(f"{where}: bbox_format {row['bbox_format']!r}; expected xyxy-pixels or xywh-pixels.")
        size = (row["width"], row["height"])
        yield Question(
            id=str(row["question_id"]),
            prompt=lead + row["text"],
            image=row["image"],
            cluster=row["image"],
            details=_details(
                in_pixels(_box(row["bbox"], where), row["bbox_format"], *size),
                size,
                row.get("dataset", "refcoco"),
                row.get("split", "val"),
                where,
            ),
        )


def _details(box: Box, size: tuple[int, int], dataset: str, split: str, where: str) -> dict[str, Any]:
    if not (box.left < box.right and box.top < box.bottom and min(size) > 0):
        raise DataError(f"{where}: box {tuple(box)} in an image of {size[0]}x{size[1]}; expected a box with an area.")
    return {"box": box, "size": size, "dataset": dataset, "split": split}


def _box(numbers: Any, where: str) -> Box:
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(isinstance(n, int | float) for n in numbers):
        raise DataError(f"{where}: box {numbers!r}; expected a list of four numbers.")
    return Box(*numbers)


def _refs_file(folder: Path) -> Path:
    for partition in _SPLIT_BY:
        for suffix in ("json", "p"):
            file = folder / f"refs({partition}).{suffix}"
            if file.is_file():
                return file
    raise DataError(f"{folder}: no refs(unc).p, refs(umd).p or refs(google).p, nor the like as .json. Check the path.")


def _read_refs(path: Path) -> Sequence[Mapping[str, Any]]:
    refs = read_json(path) if path.suffix == ".json" else _read_plain_pickle(path)
    if not isinstance(refs, list):
        raise DataError(f"{path}: a {type(refs).__name__}; expected a list of refs. Is this RefCOCO's file?")
    return refs


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module_name}.{global_name}")


def _read_plain_pickle(path: Path) -> Any:
    """Load a pickle of plain lists, dictionaries, texts and numbers; refuse one that refers to any code."""
    try:
        # The official files are Python 2's: their texts are bytes of Latin 1.
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except Exception as error:  # a broken pickle may raise anything, as its documentation says
        raise DataError(
            f"{path}: not a pickle of plain data ({error}). Expected lists, dictionaries, texts and numbers only; "
            "from a source that you trust, convert it to JSON under the same name with the suffix .json."
        ) from None
