"""The features of a source's images from a frozen tower, computed once for all the trainings that use them.

Their layout on disk is in `data.features`; which trainings share them is decided by a study's plan.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from olivine.available_cpus import available_cpus
from olivine.data.features import write_features
from olivine.data.image_record import ImageRecord
from olivine.data.llava_json import ItemError
from olivine.data.sources import Skipped, open_sample_image, read_samples, usable
from olivine.errors import DataError, RunError
from olivine.model.build import build_tower
from olivine.model.pixels import normalise_on
from olivine.model.vlm import cast, patch_features
from olivine.model.whole_start import start_tower
from olivine.recipe import DataRecipe, Recipe, StageRecipe
from olivine.records import Sample

#: Images encoded at once; the last bits of features depend on it, so it is the same everywhere.
CHUNK = 64


def compute_features(recipe: Recipe, stage: StageRecipe, folder: Path, on_images: Callable[[int, int], None]) -> None:
    """Write the features that a stage would compute of its source's images, resuming after a kill.

    The tower runs in the stage's precision. Under `on_error: skip` a broken image is recorded as broken.

    Args:
        recipe: a recipe whose tower comes from pretrained weights.
        stage: a stage that does not train the tower; no stage before it does either.
        folder: where the table goes.
        on_images: called with (done, total).

    Raises:
        DataError: under `on_error: stop`, at the first broken image.
        RunError: no sample has an image.
    """
    source = recipe.data[stage.data]
    samples_by_image = _samples_by_image(source)
    if not samples_by_image:
        raise RunError(f"{source.json_}: no sample has an image, so there are no features to compute.")
    bf16 = recipe.optimizer.precision == "bf16"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = recipe.model.from_
    tower, plan = build_tower(recipe.model.vision) if start is None else start_tower(start)
    transform = plan.transform.with_fit(stage.image_fit)
    cast(tower.parameters(), torch.bfloat16 if bf16 else torch.float32)
    tower.to(device)

    record = ImageRecord(folder).of(stage.data)

    def fitted(name: str) -> np.ndarray | ItemError:
        try:
            return np.asarray(transform.fitted(open_sample_image(samples_by_image[name], source, record, image=name)))
        except ItemError as error:
            if source.on_error == "stop":
                raise DataError(f"{source.json_}: {error} (to skip such items: on_error: skip)") from None
            return error

    blank = np.zeros((transform.size, transform.size, 3), np.uint8)
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="images") as readers:

        @torch.inference_mode()
        def encode(names: Sequence[str]) -> tuple[Tensor, dict[str, ItemError]]:
            found = dict(zip(names, readers.map(fitted, names), strict=True))
            broken = {name: error for name, error in found.items() if isinstance(error, ItemError)}
            pixels = np.stack([blank if isinstance(image, ItemError) else image for image in found.values()])
            sent = torch.from_numpy(pixels)
            sent = sent.pin_memory() if device.type == "cuda" else sent
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                features = patch_features(
                    tower,
                    plan.layer,
                    normalise_on(sent, transform, device, next(tower.parameters()).dtype),
                    strategy=plan.strategy,
                )
            return features.cpu(), broken

        write_features(
            folder,
            list(samples_by_image),
            encode,
            shape=(plan.features.tokens, plan.features.width),
            dtype=torch.bfloat16 if bf16 else torch.float32,
            chunk=CHUNK,
            on_images=on_images,
        )


def _samples_by_image(source: DataRecipe) -> dict[str, Sample]:
    """Return each image of a source once, in order of first use, with a sample that uses it."""
    found: dict[str, Sample] = {}
    for sample in usable(read_samples(source, Skipped()), source):
        for image in sample.all_images:
            found.setdefault(image, sample)
    return found
