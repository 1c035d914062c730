"""What Olivine's model folders contain beside transformers' own files: template, image transform and checksums.

Writing and reading the folder itself is in `checkpoint`.
"""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from olivine import __version__
from olivine.data.images import ImageTransform
from olivine.data.template import TEMPLATE_NAMES
from olivine.errors import DataError, RequestError, unknown_name
from olivine.files import read_json, sha256_of_file, write_json
from olivine.model.hub import TOKENIZER, WEIGHTS
from olivine.model.preprocessor import statistics
from olivine.recipe import ImageFit, Resample

#: The file's name in the folder.
COMPANION = "olivine.json"
_log = logging.getLogger(__name__)


class Checksum(BaseModel):
    """A file's length in bytes and its content hash."""

    model_config = ConfigDict(frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Image(BaseModel):
    size: Annotated[int, Field(ge=1, le=2**13)]
    fit: ImageFit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Resample = "bicubic"


class Companion(BaseModel):
    """The content of olivine.json.

    Attributes:
        template: name of the chat template that the model was trained with.
        image: the transform that fits images to the tower.
        files: checksums of the folder's files by name; None in folders of other tools or of an older Olivine.
    """

    olivine: str = ""
    template: str
    image: _Image
    files: dict[str, Checksum] | None = None

    @property
    def transform(self) -> ImageTransform:
        """The image transform."""
        image = self.image
        return ImageTransform(image.size, image.fit, image.mean, image.std, image.resample)


def write_companion(folder: Path, template: str, transform: ImageTransform) -> None:
    """Describe a model folder and seal it: called last, when all its other files are written."""
    image: dict[str, Any] = {
        "size": transform.size,
        "fit": transform.fit,
        "mean": list(transform.mean),
        "std": list(transform.std),
    }
    if transform.resample != "bicubic":  # the default, which older versions of this file mean
        image["resample"] = transform.resample
    described: dict[str, Any] = {"olivine": __version__, "template": template, "image": image}
    write_json(folder / COMPANION, {**described, "files": checksums(folder)})


def read_companion(folder: Path) -> Companion:
    """Read a model folder's olivine.json.

    Raises:
        DataError: a value is missing or invalid; the message names it.
    """
    path = folder / COMPANION
    try:
        companion = Companion.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        position = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{path}: {position}: {first['msg']} ({error.error_count()} such). Copy the file again, or write the "
            "checkpoint again."
        ) from None
    if companion.template not in TEMPLATE_NAMES:
        raise DataError(f"{path}: template: {unknown_name(companion.template, TEMPLATE_NAMES)}")
    try:
        statistics(companion.image.mean, f"{path}: image.mean")
        statistics(companion.image.std, f"{path}: image.std", smallest=1e-5)
    except RequestError as error:
        raise DataError(str(error)) from None
    return companion


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Return length and SHA-256 of every file of a folder but olivine.json, by name; large files on all cores."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != COMPANION)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        hashes = list(pool.map(sha256_of_file, files))
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": hashed} for path, hashed in zip(files, hashes, strict=True)
    }


def verify(folder: Path, companion: Companion) -> None:
    """Compare a model folder's files with their checksums; a folder without any is used and reported as unverified.

    Raises:
        DataError: a file is missing, shorter, damaged, edited or added; the message names it.
    """
    if companion.files is None:
        _say_unverified(folder)
        return
    for name in companion.files:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise DataError(f"{folder / COMPANION}: files: {name!r} is no file of the folder.")
        if not (folder / name).is_file():
            raise DataError(f"{folder}: {name} is missing. Copy the checkpoint again, or write it again.")
    _refuse_added(folder, companion.files, (*TOKENIZER, *WEIGHTS))
    _compare(folder, companion.files)


def verify_module_files(folder: Path, names: Iterable[str]) -> None:
    """Compare those files of a model folder that a module is read from; other folders have no checksums to compare.

    Args:
        folder: any folder; it may have been fetched from the hub only partly.
        names: file names of the module; `*` matches anything.

    Raises:
        DataError: as `verify`, but for files that are missing.
    """
    if not (folder / COMPANION).is_file():
        return
    files, names = read_companion(folder).files, tuple(names)
    if files is None:
        _say_unverified(folder)
        return
    _refuse_added(folder, files, names)
    _compare(folder, {name: file for name, file in files.items() if _fits(name, names) and (folder / name).is_file()})


def _refuse_added(folder: Path, files: Mapping[str, Checksum], names: Iterable[str]) -> None:
    """Require a checksum of each file that loading would read: an added one changes the model as an edited one does."""
    present = sorted(path.name for path in folder.iterdir() if path.name != COMPANION and _fits(path.name, names))
    added = [name for name in present if name not in files]
    if added:
        raise DataError(f"{folder}: {', '.join(added)}: has no checksum in {COMPANION}. {_WHAT_TO_DO}")


def _compare(folder: Path, files: Mapping[str, Checksum]) -> None:
    for name, expected in files.items():
        size = (folder / name).stat().st_size
        if size != expected.bytes:
            raise DataError(f"{folder}: {name} has {size:,} bytes instead of {expected.bytes:,}. {_WHAT_TO_DO}")
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(lambda name: sha256_of_file(folder / name), files))
    changed = [name for (name, expected), found in zip(files.items(), hashes, strict=True) if found != expected.sha256]
    if changed:
        raise DataError(
            f"{folder}: {', '.join(changed)}: content differs from the checksum in {COMPANION}. {_WHAT_TO_DO}"
        )


def _say_unverified(folder: Path) -> None:
    _log.warning(f"{folder}: unverified: {COMPANION} holds no checksums (an older Olivine or another tool wrote it).")


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


_WHAT_TO_DO = (
    "It is damaged, or was edited after Olivine wrote it: copy the checkpoint again; after an edit that is meant, "
    f'remove "files" from {COMPANION}.'
)
