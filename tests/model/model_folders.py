"""Model folders that tests damage: copies of tiny ones, and functions that change their files."""

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


_ROOT = tempfile.TemporaryDirectory()  # deleted at exit
_SAVERS = {
    "clip": save_tower,
    "dinov2": lambda folder: save_tower(folder, tower="dinov2"),
    "gemma": save_language_model,
}


@cache
def published(name) -> str:
    """Return the folder of a tiny backbone, laid out as a published one; do not change it."""
    return str(_SAVERS[name](Path(_ROOT.name) / name))


def backbone(name, folder: Path) -> Path:
    """Return a copy of a tiny backbone."""
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
    """Replace a folder's tensors by the result of `change`."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def built(vision: str, language: str, tokenizer: str | None = None):
    """Return the model of two backbones, with a separate tokenizer if one is named."""
    values = {"vision": {"from": vision}, "language": {"from": language, "tokenizer": tokenizer}, "connector": {}}
    return build(ModelRecipe.model_validate(values), seed=0, texts=list)


def built_with(folder: Path):
    """Return the model with this folder as its tower or language model, by its type."""
    tower = "vocab_size" not in json.loads((folder / "config.json").read_text())
    return built(str(folder), published("gemma")) if tower else built(published("clip"), str(folder))
