"""A tower's image preprocessing as its own files describe it, checked value by value.

The transform itself is `data.image_fit.ImageTransform`.
"""

import math
from pathlib import Path
from typing import Any

from olivine.data.images import ImageTransform
from olivine.errors import RequestError
from olivine.files import read_json
from olivine.model.hub import CONFIGURATION, local_folder
from olivine.model.processor import require_image_processor
from olivine.model.towers.family import TowerFamily
from olivine.recipe import ImageFit, Resample, Source, VisionRecipe

#: A smaller standard deviation turns the difference of two neighbouring byte values into more than a unit of 100.
_SMALLEST_STD = 1e-5
_LARGEST_SIDE = 2**13
_BYTE = 1 / 255
#: Pillow's numbers of filters, as transformers writes them.
_FILTERS: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}


def image_transform(recipe: VisionRecipe, source: Source, config: Any, family: TowerFamily) -> ImageTransform:
    """Return the transform that fits images to a tower: the recipe's values, then its folder's, then its family's.

    Args:
        recipe: the vision section.
        source: the tower's source.
        config: the tower's own configuration.
        family: the tower's.

    Raises:
        RequestError: means, standard deviations, a filter or a size that is invalid; the message names the file.
    """
    key = "model.vision"
    require_image_processor(recipe.image_fit)
    mean, std = family.statistics
    size, resample = family.default_size(config), recipe.resample or family.resample
    path, stored = _stored(source)
    if path is not None:
        _check_arithmetic(stored, f"{key}.from: {path}", overridden=recipe.mean is not None and recipe.std is not None)
        mean = statistics(stored.get("image_mean", mean), f"{key}.from: {path}: image_mean")
        std = statistics(stored.get("image_std", std), f"{key}.from: {path}: image_std", smallest=_SMALLEST_STD)
        resample = recipe.resample or _stored_filter(stored, f"{key}.from: {path}: resample") or resample
    if recipe.image_size is None and path is not None:
        side = _stored_side(stored, f"{key}.from: {path}: crop_size") or size
        if family.position_table is not None and side != size:
            raise RequestError(
                f"{key}.from: {path}: crop_size is {side}, but the tower was trained at {size}. Give "
                f"model.vision.image_size: {size} as it is, or {side} with its positions resampled."
            )
        size = side
    size = recipe.image_size or size
    family.grid(config, size)
    return ImageTransform(
        size,
        recipe.image_fit,
        statistics(recipe.mean, f"{key}.mean") if recipe.mean else mean,
        statistics(recipe.std, f"{key}.std", smallest=_SMALLEST_STD) if recipe.std else std,
        resample,
    )


def described_transform(
    stored: dict[str, Any], fit: ImageFit, config: Any, family: TowerFamily, where: str
) -> ImageTransform:
    """Return the transform that an image processor's values describe, with a given fit.

    Args:
        stored: the values; what is missing is the family's.
        fit: how images are made square.
        config: the tower's configuration.
        family: the tower's.
        where: begins messages.

    Raises:
        RequestError: values that are invalid, or a size that the tower does not take.
    """
    require_image_processor(fit)
    _check_arithmetic(stored, where, overridden=False)
    mean, std = family.statistics
    size = _stored_side(stored, f"{where}: crop_size") or family.default_size(config)
    if family.position_table is not None and size != config.image_size:
        raise RequestError(f"{where}: crop_size is {size}, but the tower takes {config.image_size} alone.")
    family.grid(config, size)
    return ImageTransform(
        size,
        fit,
        statistics(stored.get("image_mean", mean), f"{where}: image_mean"),
        statistics(stored.get("image_std", std), f"{where}: image_std", smallest=_SMALLEST_STD),
        _stored_filter(stored, f"{where}: resample") or family.resample,
    )


def statistics(values: Any, where: str, *, smallest: float | None = None) -> tuple[float, float, float]:
    """Return three finite numbers, one per channel, each at least `smallest` if given.

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
    """Return the file that a folder describes its preprocessing in, and the image processor's values in it."""
    if isinstance(source, dict):
        return None, {}
    folder = local_folder(source, "model.vision.from", CONFIGURATION)
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        values = read_json(path)
        if isinstance(values, dict) and name == "processor_config.json":
            # A whole processor's file: the image processor's values are nested in it, if it has any.
            values = values.get("image_processor", {})
        if not isinstance(values, dict):
            raise RequestError(f"model.vision.from: {path}: expected an object, found a {type(values).__name__}.")
        if values:
            return path, values
    return None, {}


def _check_arithmetic(stored: dict[str, Any], where: str, *, overridden: bool) -> None:
    """Refuse steps that are not implemented: another or no rescaling of pixel values; no normalisation."""
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


def _stored_filter(stored: dict[str, Any], where: str) -> Resample | None:
    number = stored.get("resample")
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or number not in _FILTERS:
        raise RequestError(
            f"{where}: {number!r}; expected 2 (bilinear) or 3 (bicubic). Give model.vision.resample, one of "
            f"{', '.join(_FILTERS.values())}, to take that instead."
        )
    return _FILTERS[number]


def _stored_side(stored: dict[str, Any], where: str) -> int | None:
    crop = stored.get("crop_size")
    if crop is None:
        return None
    sides = [crop.get("height"), crop.get("width", crop.get("height"))] if isinstance(crop, dict) else [crop, crop]
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool)]
    if len(whole) != 2 or whole[0] != whole[1] or not 1 <= whole[0] <= _LARGEST_SIDE:
        raise RequestError(f"{where}: {crop!r}; expected a square, from 1 to {_LARGEST_SIDE:,} pixels a side.")
    return whole[0]
