"""The aligned connectors that the package ships: the world's own align stage between two of its backbones.

What they are called, and where they are, is in `world.backbones`; how one is read, in `model.connectors.stored`.
"""

from pathlib import Path

from rich.console import Console

from olivine.available_cpus import available_cpus
from olivine.files import read_json, write_json
from olivine.model import checkpoint
from olivine.model.connectors.stored import save_connector
from olivine.recipe import CHECKPOINT, RESULT, Recipe
from olivine.training.run import train
from olivine.world import training_data
from olivine.world.backbones import CONNECTORS, FIGURES, STORED

#: As recipes/world/base.yaml has its align stage.
_STAGE = {"name": "align", "train": ["connector"], "data": "captions", "template": "plain", "batch": 8, "lr": 3e-3}


def align(name: str, output: Path, work: Path, console: Console, *, seed: int = 0, steps: int = 400) -> Path:
    """Train one connector and write it, resuming where an earlier call stopped; return its file.

    Args:
        name: a key of `CONNECTORS`.
        output: a folder that gets one folder for each connector.
        work: where captions and the run go.
        console: where messages go.
        seed: of the scenes, and of the first weights.
        steps: of eight captions each.
    """
    about = CONNECTORS[name]
    training_data.write(work / "captions", seed, _images(steps), workers=available_cpus())
    captions = {"json": work / "captions" / "captions.json", "images": work / "captions" / "images"}
    recipe = Recipe.model_validate(
        {
            "name": name,
            "model": {"vision": {"from": f"world:{about.tower}"}, "language": {"from": f"world:{about.language}"}},
            "data": {"captions": captions},
            "stages": [{**_STAGE, "steps": steps, "validate_every": 0}],
            "optimizer": {"precision": "fp32", "betas": [0.9, 0.98]},
            "output": work / name,
            "seed": seed,
        }
    )
    stage = train(recipe, console).parent
    file = output / name / STORED
    save_connector(file, checkpoint.load(stage / CHECKPOINT).model)
    result = read_json(stage / RESULT)
    write_json(file.with_name(FIGURES), {key: result[key] for key in ("steps", "seconds", "loss", "held_out_loss")})
    return file


def _images(steps: int) -> int:
    """Return how many captions are drawn: no more than the usual 4,000, each of them seen about once."""
    return min(4000, 8 * steps + 64)
