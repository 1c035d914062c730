"""Model folders and run directories from the command line, as models to serve or to talk to.

What they do is in `served_model`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olivine.errors import RequestError
from olivine.model.checkpoint import load
from olivine.serving.limits import Limits
from olivine.serving.served_model import ServedModel
from olivine.training.run import find_checkpoint


def load_models(given: Sequence[str], limits: Limits, device: Any) -> list[ServedModel]:
    """Load models, each `PATH` or `NAME=PATH`.

    Raises:
        RequestError: one is no model, or two have the same name.
    """
    named = [_name_and_path(one) for one in given]
    folders = [(name, find_checkpoint(path)) for name, path in named]
    names = [name for name, _ in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"MODEL: two models are named {twice!r}. Name them: first=PATH second=PATH.")
    models = []
    for name, folder in folders:
        vlm = load(folder)
        vlm.model.to(device)
        models.append(ServedModel(name, vlm, limits))
    return models


def _name_and_path(given: str) -> tuple[str, Path]:
    """Return a model's name and path: the name given, or the path's last component that says something."""
    name, found, path = given.partition("=")
    if found and name and "/" not in name and not Path(given).exists():
        return name, Path(path)
    parts = [part for part in Path(given).absolute().parts if part != "checkpoint"]
    return parts[-1], Path(given)
