"""A published model's logits as its own time computed them, for the proof of an import."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from olivine.conversion.published import Published
from olivine.conversion.raw_tensors import RawTensor
from olivine.conversion.reference.images import FITS, pixels
from olivine.conversion.reference.languages import Prompt, ReferenceLanguage, language_not_written_out
from olivine.conversion.reference.raw_weights import RawWeights
from olivine.conversion.reference.towers import TOWERS, project, tower_features
from olivine.data.images import ImageTransform


def not_written_out(published: Published) -> str | None:
    """Return what of a model is not written out here; None if all is."""
    if published.vision["model_type"] not in TOWERS:
        return f"the tower {published.vision['model_type']!r}"
    if not isinstance(published.layer, int):
        return "features of several layers"
    if published.connector is not None:
        return "this connector"
    return language_not_written_out(published.text["model_type"], published.text_as_written)


@torch.no_grad()
def reference_logits(
    published: Published,
    transform: ImageTransform,
    images: Sequence[Image.Image],
    prompts: Sequence[Sequence[int]],
    image_token_id: int,
    *,
    written: torch.dtype,
) -> list[Tensor]:
    """Return the logits `[vocabulary]` of the token behind each prompt.

    Weights are read as the model needs them and computed with in fp32: one layer is in memory at a time.

    Args:
        published: where the files are, and what its own time did; `not_written_out` has been asked.
        transform: size, fit, mean and standard deviation of images; a fit that LLaVA's code has not is its own.
        images: RGB, one a prompt.
        prompts: token ids with `image_token_id` once for each feature.
        image_token_id: the placeholder's.
        written: dtype of the import. If it is the language model's own, tower and projector are rounded to it, as they
            were when the model ran; otherwise each tensor keeps its own.

    Raises:
        RunError: the files do not hold such a model.
    """
    own = published.language["embed_tokens.weight"].dtype
    dtype = own if written == own else None
    tower, projector = (RawWeights(_files(part.values()), dtype) for part in (published.tower, published.projector))
    fitted = torch.stack([_pixels(image, transform) for image in images])
    assert isinstance(published.layer, int)
    features = tower_features(
        tower,
        published.vision["model_type"],
        published.vision_as_written,
        published.layer,
        published.strategy,
        fitted,
    )
    features = project(projector, features, published.projector_activation)
    language = ReferenceLanguage(
        RawWeights(_files(published.language.values())),
        published.text["model_type"],
        published.text_as_written,
        published.activation,
        scales_all=published.image_scale == "sqrt-hidden",
        updates=RawWeights(_files(each.down for each in published.adapters.values())) if published.adapters else None,
        scale=next((each.scale for each in published.adapters.values()), 1.0),
    )
    asked = [Prompt(ids, shown, list(ids).index(image_token_id)) for ids, shown in zip(prompts, features, strict=True)]
    return language.logits(asked)


def _files(tensors: Iterable[RawTensor]) -> list[Path]:
    return list(dict.fromkeys(tensor.file for tensor in tensors))


def _pixels(image: Image.Image, transform: ImageTransform) -> Tensor:
    if transform.fit not in FITS:
        return torch.from_numpy(transform(image))
    return pixels(image, transform.fit, transform.size, transform.mean, transform.std, transform.resample)
