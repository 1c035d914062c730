"""What decides an evaluation's answers, as one value: earlier answers are reused only if it is the same.

Where answers are stored is in `answer_log`.
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

#: File in an evaluation's folder: digests of image files, so that a rerun reads only those that changed.
INDEX = ".images.index"
#: Files of a checkpoint that have no influence on answers.
_UNDECIDING = {"README.md", "olivine-proof.json"}
#: Names of a request's entries in messages.
NAMES = {
    "format": "the format of the request (written by another version)",
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
        benchmark: the benchmark's name.
        questions: the benchmark's questions, before any control.
        images: what `image_contents` returned for the images that are used.
        control: the control, which decides the images used instead.
        max_new_tokens: longest answer in tokens.
        model_id: the model's name in messages and answers; it decides nothing.
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
    """Return the differences between two requests, in words; the model's name does not count.

    Args:
        before: the earlier request, as read from its file.
        now: this request.
        answered: the images of answered questions; an image that could not be read then may differ now.
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
    """Return the digest of every image, by name; for images in parquet files, one digest of the files, under "".

    An image that is missing or cannot be read has a word instead of a digest; its questions will fail and be reported.
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
        image = images.open(name)  # a source from another package: only its pixels can be compared
        return digest_of(f"{image.mode} {image.size} ".encode() + image.tobytes()).hex()
    except DataError:
        return "unreadable"


def _files_of(checkpoint: Path) -> list[Path]:
    """Return a checkpoint's files in any format: weights, configuration, tokenizer, template, processor."""
    files = (file for file in checkpoint.iterdir() if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in files if file.name not in _UNDECIDING)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
