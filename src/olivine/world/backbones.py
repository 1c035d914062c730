"""Locations of the tiny pretrained backbones and connectors in the package, which recipes name as `world:NAME`.

Their training is in `world.pretraining`; nothing here opens a model.
"""

import difflib
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class AlignedConnector:
    """A connector and the backbones that it was aligned between, without `world:`."""

    tower: str
    language: str


CONNECTORS = {"tiny-connector-clip-s": AlignedConnector("tiny-clip", "tiny-gemma-s")}
#: The files of a connector's folder: its weights, and the figures of its training.
STORED, FIGURES = "connector.safetensors", "figures.json"


def shipped() -> Path:
    """Return the folder inside the package that holds them, one folder each."""
    return Path(str(files("olivine") / "world" / "pretrained"))


def locate(name: str) -> str:
    """Return the folder of the backbone, or the file of the connector, that recipes call `world:NAME`.

    Raises:
        RequestError: none has that name, or the package was installed without it.
    """
    known = (*BACKBONES, *CONNECTORS)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {SCHEME}{nearest[0]}?" if nearest else ""
        valid = ", ".join(SCHEME + one for one in known)
        raise RequestError(f"{SCHEME}{name}: unknown backbone.{hint} Valid: {valid}.")
    folder = shipped() / name
    if name in CONNECTORS:
        if not (folder / STORED).is_file():
            raise RequestError(f"{SCHEME}{name}: {folder} is missing. Make it: olivine world align --only {name}")
        return str(folder / STORED)
    if not (folder / "config.json").is_file():
        raise RequestError(f"{SCHEME}{name}: {folder} is missing. Make it: olivine world pretrain --only {name}")
    return str(folder)
