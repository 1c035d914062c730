"""How a tower's own files say that images become its input, checked value by value.

The transform itself is `data.images.ImageTransform`.
"""

import math
from pathlib import Path
from typing import Any

from olivine.data.images import ImageTransform
from olivine.errors import RequestError
from olivine.files import read_json
from olivine.model.hub import CONFIGURATION, local_folder
from olivine.model.processor import require_image_processor
from olivine.recipe import Source, VisionRecipe

_CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS = {"clip_vision_model": _CLIP_STATISTICS, "dinov2": _IMAGENET_STATISTICS}
#: A smaller standard deviation turns the difference of two neighbouring byte values into more than a unit of 100.
_SMALLEST_STD = 1e-5
_LARGEST_SIDE = 2**13
_BYTE = 1 / 255


def image_transform(recipe: VisionRecipe, config: Any) -> ImageTransform:
    """Return what fits images to a tower: the recipe's values, then its folder's, then its family's.

    Raises:
        RequestError: means, standard deviations or a size that cannot be meant, with their file.
    """
    key = "model.vision"
    require_image_processor(recipe.image_fit)
    mean, std = STATISTICS[config.model_type]
    size = config.image_size if config.model_type == "clip_vision_model" else 224
    path, stored = _stored(recipe.from_)
    if path is not None:
        _check_arithmetic(stored, f"{key}.from: {path}", overridden=recipe.mean is not None and recipe.std is not None)
        mean = statistics(stored.get("image_mean", mean), f"{key}.from: {path}: image_mean")
        std = statistics(stored.get("image_std", std), f"{key}.from: {path}: image_std", smallest=_SMALLEST_STD)
    if recipe.image_size is None and path is not None:
        size = _stored_side(stored, f"{key}.from: {path}: crop_size") or size
    size = recipe.image_size or size
    if size % config.patch_size:
        raise RequestError(f"model.vision.image_size: {size} is no multiple of the patch size {config.patch_size}.")
    if config.model_type == "clip_vision_model" and size != config.image_size:
        raise RequestError(f"model.vision.image_size: {size}, but this CLIP takes {config.image_size} alone.")
    return ImageTransform(
        size,
        recipe.image_fit,
        statistics(recipe.mean, f"{key}.mean") if recipe.mean else mean,
        statistics(recipe.std, f"{key}.std", smallest=_SMALLEST_STD) if recipe.std else std,
    )


def statistics(values: Any, where: str, *, smallest: float | None = None) -> tuple[float, float, float]:
    """Return three finite numbers, one a channel, each at least `smallest` if given.

    Raises:
        RequestError: they are not; the message begins with `where`.
    """
    numbers = list(values) if isinstance(values, list | tuple) else []
    right = len(numbers) == 3 and all(
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and math.isfinite(number)
        and abs(number) <= 10
        and (smallest is None or number >= smallest)
        for number in numbers
    )
    if not right:
        least = "" if smallest is None else f", each at least {smallest:g}"
        raise RequestError(f"{where}: {values!r}; expected three numbers, one a channel{least}.")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _stored(source: Source) -> tuple[Path | None, dict[str, Any]]:
    """The file that a folder describes its preprocessing in, and the image processor's values in it."""
    if isinstance(source, dict):
        return None, {}
    folder = local_folder(source, "model.vision.from", CONFIGURATION)
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        values = read_json(path)
        if isinstance(values, dict) and name == "processor_config.json":
            # A whole model's: the image processor's values stand inside it, if it has any there.
            values = values.get("image_processor", {})
        if not isinstance(values, dict):
            raise RequestError(f"model.vision.from: {path}: expected an object, found a {type(values).__name__}.")
        if values:
            return path, values
    return None, {}


def _check_arithmetic(stored: dict[str, Any], where: str, *, overridden: bool) -> None:
    """Refuse steps that are not done here: another scale of pixel values, or none; no normalisation."""
    factor = stored.get("rescale_factor", _BYTE)
    if stored.get("do_rescale", True) is not True or not isinstance(factor, int | float) or abs(factor - _BYTE) > 1e-6:
        raise RequestError(
            f"{where}: pixel values are scaled by {factor!r} (do_rescale {stored.get('do_rescale', True)!r}); "
            "only 1/255 is supported."
        )
    if stored.get("do_normalize", True) is not True and not overridden:
        raise RequestError(
            f"{where}: do_normalize is {stored['do_normalize']!r}. Give model.vision.mean and model.vision.std "
            "(0 and 1 for pixel values as they are)."
        )


def _stored_side(stored: dict[str, Any], where: str) -> int | None:
    crop = stored.get("crop_size")
    if crop is None:
        return None
    sides = [crop.get("height"), crop.get("width", crop.get("height"))] if isinstance(crop, dict) else [crop, crop]
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool)]
    if len(whole) != 2 or whole[0] != whole[1] or not 1 <= whole[0] <= _LARGEST_SIDE:
        raise RequestError(f"{where}: {crop!r}; expected a square, from 1 to {_LARGEST_SIDE:,} pixels a side.")
    return whole[0]
