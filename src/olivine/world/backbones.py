"""Where the tiny pretrained backbones lie in the package, and which recipes call them by `world:NAME`.

How they are trained is in `train.backbones`; nothing here opens a model.
"""

import difflib
from importlib.resources import files
from pathlib import Path

from olivine.errors import RequestError

SCHEME = "world:"
#: Every backbone and what it is.
BACKBONES = {
    "tiny-clip": "a CLIP vision tower, trained on pictures with captions",
    "tiny-dinov2": "a DINOv2 tower of the same shape and budget, trained on pictures alone",
    "tiny-gemma-s": "a small Gemma with a large vocabulary",
    "tiny-gemma-l": "a larger Gemma with the same vocabulary",
    "tiny-gemma-s-pieces": "the small Gemma with a small vocabulary: words are split in pieces",
}


def shipped() -> Path:
    """The folder inside the package that holds them, one folder each."""
    return Path(str(files("olivine") / "world" / "pretrained"))


def located(source: str) -> str:
    """`world:NAME` as the path of that backbone's folder; any other source as it is.

    Raises:
        RequestError: no backbone has that name, or the package has come without it.
    """
    if not source.startswith(SCHEME):
        return source
    name = source.removeprefix(SCHEME)
    if name not in BACKBONES:
        nearest = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f" Did you mean {SCHEME}{nearest[0]}?" if nearest else ""
        raise RequestError(f"{source}: no such backbone.{hint} Valid: {', '.join(SCHEME + b for b in BACKBONES)}.")
    folder = shipped() / name
    if not (folder / "config.json").is_file():
        raise RequestError(f"{source}: {folder} is not there. Make it: olivine world pretrain --only {name}")
    return str(folder)
