"""easy-VQA (Victor Zhou, MIT) as LLaVA JSON: captions, instructions and a question file.

The data come from the PyPI package `easy-vqa`, or from a folder with the same layout; nothing is downloaded.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from olivine.errors import DataError, RequestError
from olivine.files import atomic_folder, read_json

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


def package_folder() -> Path:
    """Return the folder in which the installed `easy-vqa` package keeps its data.

    Raises:
        RequestError: the package is not installed.
    """
    spec = find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise RequestError(
            "easy-VQA is not installed. Run: pip install 'olivine[easy-vqa]', or name its folder with --source."
        )
    return Path(spec.origin).parent / "data"


def convert(source: Path, target: Path, on_image: Callable[[int, int], None] | None = None) -> None:
    """Write `target`: captions.json, instructions.json, questions.jsonl (test) and images/{train,test}.

    An image's caption gives its colour and shape, as its questions reveal them; images whose questions do not reveal
    both have no caption. An image's questions are the turns of one item.

    Raises:
        DataError: `source` is not easy-VQA.
    """
    questions = {split: _read_questions(source, split) for split in ("train", "test")}
    images = [(split, image) for split, by_image in questions.items() for image in by_image]
    with atomic_folder(target) as folder:
        _write(
            folder / "captions.json",
            [_caption_item(i, q) for i, q in questions["train"].items() if len(_known(q)) == 2],
        )
        _write(folder / "instructions.json", [_instruction_item(i, q) for i, q in questions["train"].items()])
        with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
            for number, row in enumerate(_question_rows(questions["test"])):
                file.write(json.dumps({"question_id": number, **row}) + "\n")
        for done, (split, image) in enumerate(images, start=1):
            copy = folder / "images" / split / f"{image}.png"
            copy.parent.mkdir(parents=True, exist_ok=True)
            original = source / split / "images" / f"{image}.png"
            if not original.is_file():
                raise DataError(f"{original}: image not found; is {source} a complete easy-VQA?")
            shutil.copyfile(original, copy)
            if on_image is not None:
                on_image(done, len(images))


Questions = dict[int, list[tuple[str, str]]]


def _read_questions(source: Path, split: str) -> Questions:
    path = source / split / "questions.json"
    rows = read_json(path)
    by_image: Questions = defaultdict(list)
    for number, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 3):
            raise DataError(f"{path}: entry {number} is not [question, answer, image id]; is this easy-VQA?")
        question, answer, image = row
        by_image[int(image)].append((str(question), str(answer)))
    return dict(by_image)


def _known(questions: list[tuple[str, str]]) -> list[str]:
    """Return colour, then shape, as far as an image's questions and answers reveal them.

    "is there not a circle?" - "no" reveals the circle as well as "what shape is present?" - "circle" does, and so does
    "what color is the circle?".
    """
    known = set()
    for question, answer in questions:
        words = question.rstrip("?").split()
        named = {word for word in words if word in COLOURS or word in SHAPES}
        if answer in ("yes", "no"):
            negated = "not" in words or "no" in words
            known |= named if (answer == "yes") != negated else set()
        else:
            known |= named | {answer}
    return [word for kind in (COLOURS, SHAPES) for word in kind if word in known]


def _caption_item(image: int, questions: list[tuple[str, str]]) -> dict[str, Any]:
    return _item(image, [("Describe the image.", "a " + " ".join(_known(questions)))])


def _instruction_item(image: int, questions: list[tuple[str, str]]) -> dict[str, Any]:
    return _item(image, questions)


def _item(image: int, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    turns = []
    for number, (question, answer) in enumerate(pairs):
        turns.append({"from": "human", "value": ("<image>\n" if number == 0 else "") + question})
        turns.append({"from": "gpt", "value": answer})
    return {"id": f"train-{image}", "image": f"train/{image}.png", "conversations": turns}


def _question_rows(questions: Questions) -> list[dict[str, str]]:
    return [
        {"image": f"test/{image}.png", "text": question, "answer": answer, "category": _category(answer)}
        for image, pairs in questions.items()
        for question, answer in pairs
    ]


def _category(answer: str) -> str:
    if answer in SHAPES:
        return "shape"
    return "colour" if answer in COLOURS else "yes/no"


def _write(path: Path, items: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(items, indent=1) + "\n", encoding="utf-8")
