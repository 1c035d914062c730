"""In which module two models differ: one's tower or connector, through a linear map, in front of the other's rest.

The maps are fitted on unlabelled images. The statistics of the split are in `difference_split`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from olivine.data.images import ImageSource, open_image
from olivine.errors import DataError, RequestError, RunError
from olivine.evaluation.benchmarks import Benchmark
from olivine.evaluation.engine import AnsweringEngine
from olivine.explanation.linear_map import LinearMap, fit_linear_map
from olivine.explanation.token_grid import token_grid
from olivine.model.vlm import VisionLanguageModel
from olivine.records import Answer, AnswerState, Question

#: Fewer images than this do not determine a map.
FEWEST_IMAGES = 50
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_AT_ONCE = 16


@dataclass(slots=True)
class StitchedModel(VisionLanguageModel):
    """A host's language model behind another model's tower, or tower and connector.

    Attributes:
        source: the model whose modules see the image.
        through: from the source's features to the host's image tokens; None takes them as they are.
        behind_connector: whether the source's connector runs too.
    """

    source: VisionLanguageModel = field(kw_only=True)
    through: LinearMap | None = field(kw_only=True)
    behind_connector: bool = field(kw_only=True)

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Return the source's tower features of fitted images."""
        return self.source.patch_features(pixels)

    def project(self, patches: Tensor) -> Tensor:
        """Return the host's image tokens."""
        features = self.source.project(patches) if self.behind_connector else patches
        return features if self.through is None else self.through(features)


def stitched(
    host: VisionLanguageModel, source: VisionLanguageModel, through: LinearMap | None, *, behind_connector: bool
) -> StitchedModel:
    """Return the host's language model with the source's modules in front; images are fitted as the source's are."""
    own: dict[str, Any] = {one.name: getattr(host, one.name) for one in fields(host)}
    own["transform"] = source.transform
    return StitchedModel(**own, source=source, through=through, behind_connector=behind_connector)


@dataclass(frozen=True, slots=True)
class Stitches:
    """A host's language model behind what can be put in front of it, from its own modules to the other's.

    Attributes:
        own: the host itself.
        own_tower: its own tower through a linear map: what such a map costs.
        tower: the source's tower through a linear map.
        connector: the source's tower and connector through a linear map.
        swapped: the same without a map; None where the widths differ.
    """

    own: VisionLanguageModel
    own_tower: VisionLanguageModel
    tower: VisionLanguageModel
    connector: VisionLanguageModel
    swapped: VisionLanguageModel | None

    @property
    def maps(self) -> dict[str, float]:
        """What share of the held-out variance each map predicts."""
        found = {name: getattr(self, name).through for name in ("own_tower", "tower", "connector")}
        return {name: through.explained for name, through in found.items()}


def check_stitchable(one: VisionLanguageModel, other: VisionLanguageModel) -> None:
    """Refuse two models whose image tokens do not stand for the same parts of an image.

    Raises:
        RequestError: their grids differ, or tokens have no place.
    """
    grids = [token_grid(vlm) for vlm in (one, other)]
    if len({(grid.cells, grid.extra, grid.factor) for grid in grids}) > 1:
        each = " and ".join(f"{grid.cells}x{grid.cells} tokens with {grid.extra} others" for grid in grids)
        raise RequestError(
            f"the two models' images have {each}: their tokens do not correspond, so that neither's modules fit in "
            "front of the other's. Compare models of one grid."
        )


def fitting_images(folder: Path, limit: int) -> list[Path]:
    """Return up to `limit` images of a folder, in the order of their names.

    Raises:
        RequestError: there are too few.
    """
    if not folder.is_dir():
        raise RequestError(f"--fit-images: {folder}: no such folder. Give a folder of images, of training, say.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)[:limit]
    if len(found) < FEWEST_IMAGES:
        raise RequestError(
            f"--fit-images: {folder}: {len(found)} images; linear maps need at least {FEWEST_IMAGES}, a few hundred "
            "to be good."
        )
    return found


def fit_stitches(host: VisionLanguageModel, source: VisionLanguageModel, images: Sequence[Path]) -> Stitches:
    """Fit the maps into a host's image tokens on unlabelled images, and return the models made with them."""
    of_host, of_source = _features(host, images), _features(source, images)
    targets = of_host["connector"]

    def mapped(vlm: VisionLanguageModel, features: Tensor, behind_connector: bool) -> StitchedModel:
        return stitched(host, vlm, fit_linear_map(features, targets), behind_connector=behind_connector)

    same_width = of_source["connector"].shape[-1] == targets.shape[-1]
    return Stitches(
        own=host,
        own_tower=mapped(host, of_host["tower"], False),
        tower=mapped(source, of_source["tower"], False),
        connector=mapped(source, of_source["connector"], True),
        swapped=stitched(host, source, None, behind_connector=True) if same_width else None,
    )


@torch.no_grad()
def _features(vlm: VisionLanguageModel, images: Sequence[Path]) -> dict[str, Tensor]:
    """Return `[images, tokens, width]` behind the tower and behind the connector, on the CPU."""
    found: dict[str, list[Tensor]] = {"tower": [], "connector": []}
    for start in range(0, len(images), _AT_ONCE):
        fitted = [
            torch.from_numpy(vlm.transform.fitted_pixels(open_image(path)).copy())
            for path in images[start : start + _AT_ONCE]
        ]
        patches = vlm.patch_features(torch.stack(fitted))
        found["tower"].append(patches.float().cpu())
        found["connector"].append(vlm.project(patches).float().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def correctness(
    vlm: VisionLanguageModel,
    benchmark: Benchmark,
    questions: Sequence[Question],
    images: ImageSource | Path,
    on_answer: Callable[[], None],
) -> dict[str, float]:
    """Return each answered question's correctness, 0 to 1.

    Raises:
        RunError: a question could not be answered.
        RequestError: the benchmark cannot score these questions here.
    """
    answers: list[Answer] = []
    for answer in AnsweringEngine(vlm, max_new_tokens=benchmark.max_new_tokens).answer(questions, images):
        if answer.state is AnswerState.FAILED:
            raise RunError(f"question {answer.question_id!r} could not be answered: {answer.error}")
        answers.append(answer)
        on_answer()
    by_id = {answer.question_id: answer for answer in answers}
    try:
        score = benchmark.score(questions, [by_id[question.id] for question in questions])
    except DataError as error:
        raise RequestError(f"{benchmark.name}: these questions cannot be scored: {error}") from None
    return {item.question_id: item.correct for item in score.items}
