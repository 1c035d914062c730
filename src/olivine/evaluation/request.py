"""What decides an evaluation's answers, in one value: kept answers are taken up where it is the same, and nowhere else.

Where answers lie is in `answer_log`.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.contents import ContentIndex, digest_of
from olivine.data.images import ImageFolder, ImageSource, find_image
from olivine.errors import DataError
from olivine.evaluation.benchmarks.parquet import ParquetImages
from olivine.files import sha256_of_file
from olivine.records import Question

#: In an evaluation's folder: digests of image files, so that a rerun reads only those that changed.
INDEX = ".images.index"
#: Files of a checkpoint that decide no answer.
_UNDECIDING = {"README.md", "olivine-proof.json"}
#: What messages call the parts of a request.
NAMES = {
    "format": "what is compared (they were kept by another version)",
    "benchmark": "the benchmark",
    "checkpoint": "the checkpoint's files",
    "questions": "the questions",
    "images": "the images' contents",
    "control": "the control (--blind, --shuffled)",
    "max_new_tokens": "the longest answer",
}


def request_of(
    checkpoint: Path,
    benchmark: str,
    questions: Sequence[Question],
    images: Mapping[str, Any],
    *,
    control: str | None,
    max_new_tokens: int,
    model_id: str,
) -> dict[str, Any]:
    """Return what decides the answers: the checkpoint with tokenizer, template and processor, questions, images.

    Args:
        checkpoint: the model's folder.
        benchmark: its name.
        questions: as the benchmark has them, before any control.
        images: what `image_contents` returned for those that are shown.
        control: which images are shown instead, if any.
        max_new_tokens: longest answer.
        model_id: how messages and answers call the model; decides nothing.
    """
    # Those about several images have one entry more, so that all others stay the request that they were.
    asked = [
        [question.id, question.prompt, question.image, *([list(question.images)] if question.images else [])]
        for question in questions
    ]
    return {
        "format": 2,
        "model_id": model_id,
        "benchmark": benchmark,
        "checkpoint": {file.name: sha256_of_file(file) for file in _files_of(checkpoint)},
        "questions": _hash(asked),
        "images": dict(images),
        "control": control,
        "max_new_tokens": max_new_tokens,
    }


def differences(before: Any, now: Mapping[str, Any], answered: Collection[str]) -> list[str]:
    """Return what differs between two requests, in words; the model's name is no difference.

    Args:
        before: the earlier request, as its file has it.
        now: this one.
        answered: the images of questions that were answered; one that could not be read then may well be another now.
    """
    if not isinstance(before, Mapping):
        return [NAMES["format"]]
    if before.get("format") != now["format"]:
        return [NAMES["format"]]
    differing = [words for key, words in NAMES.items() if key != "images" and before.get(key) != now[key]]
    images = before.get("images")
    if not isinstance(images, Mapping) or any(images.get(name) != now["images"].get(name) for name in (*answered, "")):
        differing.append(NAMES["images"])
    return differing


def image_contents(images: ImageSource | Path | None, names: Iterable[str], index: ContentIndex) -> dict[str, str]:
    """Return the digest of every image, by name; of images in parquet files, that of the files, under no name.

    An image that is missing or cannot be read has a word in place of a digest: its questions will fail by name.
    """
    if images is None:
        return {}
    if isinstance(images, ParquetImages):
        return {"": _hash([index.digest(file).hex() for file in images.files])}
    return {name: _content(images, name, index) for name in sorted(set(names))}


def _content(images: ImageSource | Path, name: str, index: ContentIndex) -> str:
    try:
        if isinstance(images, Path | ImageFolder):
            root = images if isinstance(images, Path) else images.root
            return index.digest(find_image(root, name)).hex()
        image = images.open(name)  # of a kind from elsewhere: its pixels are what can be known
        return digest_of(f"{image.mode} {image.size} ".encode() + image.tobytes()).hex()
    except DataError:
        return "unreadable"


def _files_of(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint, whatever their format: weights, configuration, tokenizer, template, processor."""
    files = (file for file in checkpoint.iterdir() if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in files if file.name not in _UNDECIDING)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
