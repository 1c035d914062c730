"""Model folders that tests damage: copies of tiny ones, and what to do to their files."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

from safetensors.torch import load_file, save_file

from olivine.model.build import build
from olivine.recipe import ModelRecipe
from olivine.testing import save_language_model, save_tower

WEIGHTS = "model.safetensors"


_ROOT = tempfile.TemporaryDirectory()  # goes with the process
_SAVERS = {
    "clip": save_tower,
    "dinov2": lambda folder: save_tower(folder, tower="dinov2"),
    "gemma": save_language_model,
}


@cache
def published(name) -> str:
    """The folder of a tiny part, as published ones lie; not to be changed."""
    return str(_SAVERS[name](Path(_ROOT.name) / name))


def backbone(name, folder: Path) -> Path:
    """A copy of a tiny part."""
    shutil.copytree(published(name), folder)
    return folder


def edit_json(path: Path, **values):
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text())
    for key, value in values.items():
        content.pop(key, None)
        if value is not None:
            content[key] = value
    path.write_text(json.dumps(content))


def edit_tensors(folder: Path, change):
    """Replace a folder's tensors by what `change` makes of them."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def built(vision: str, language: str, tokenizer: str | None = None):
    """The model of two backbones; a tokenizer of its own if named."""
    values = {"vision": {"from": vision}, "language": {"from": language, "tokenizer": tokenizer}, "connector": {}}
    return build(ModelRecipe.model_validate(values), seed=0, texts=list)


def built_with(folder: Path):
    """The model with this folder as its tower or language model, whichever it is."""
    tower = "vocab_size" not in json.loads((folder / "config.json").read_text())
    return built(str(folder), published("gemma")) if tower else built(published("clip"), str(folder))
