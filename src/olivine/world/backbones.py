"""Locations of the tiny pretrained backbones in the package, which recipes name as `world:NAME`.

Their training is in `world.pretraining`; nothing here opens a model.
"""

import difflib
from importlib.resources import files
from pathlib import Path

from olivine.errors import RequestError

SCHEME = "world:"
#: Every backbone and what it is.
BACKBONES = {
    "tiny-clip": "a CLIP vision tower, trained on images with captions",
    "tiny-siglip": "a SigLIP vision tower of the same shape, trained as tiny-clip for a quarter of the steps",
    "tiny-dinov2": "a DINOv2 tower of the same shape and budget, trained on images alone",
    "tiny-gemma-s": "a small Gemma with a large vocabulary",
    "tiny-gemma-l": "a larger Gemma with the same vocabulary",
    "tiny-gemma-s-pieces": "the small Gemma with a small vocabulary: words are split into pieces",
}


def shipped() -> Path:
    """Return the folder inside the package that holds them, one folder each."""
    return Path(str(files("olivine") / "world" / "pretrained"))


def locate(name: str) -> str:
    """Return the folder of the backbone that recipes call `world:NAME`.

    Raises:
        RequestError: no backbone has that name, or the package was installed without it.
    """
    if name not in BACKBONES:
        nearest = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f" Did you mean {SCHEME}{nearest[0]}?" if nearest else ""
        valid = ", ".join(SCHEME + known for known in BACKBONES)
        raise RequestError(f"{SCHEME}{name}: unknown backbone.{hint} Valid: {valid}.")
    folder = shipped() / name
    if not (folder / "config.json").is_file():
        raise RequestError(f"{SCHEME}{name}: {folder} is missing. Make it: olivine world pretrain --only {name}")
    return str(folder)
