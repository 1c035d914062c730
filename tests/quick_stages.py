"""Overrides that cut a recipe's stages to two steps, and data for any recipe with captions and instructions."""

import json

from olivine.testing import write_dataset


def write_both_kinds(folder):
    """Write instructions, some without an image, and captions beside them; return the instructions."""
    path = write_dataset(folder, items=12)
    items = [item for item in json.loads(path.read_text()) if "image" in item]
    captions = [{**item, "conversations": item["conversations"][:2]} for item in items]
    path.with_name("captions.json").write_text(json.dumps(captions))
    return path


def quick(recipe, dataset):
    """Overrides for two steps of each stage on a small data set."""
    files = {"captions": dataset.with_name("captions.json"), "instructions": dataset}
    data = [f"data.{name}.json={files.get(name, dataset)}" for name in recipe.data]
    data += [f"data.{name}.images={dataset.parent / 'images'}" for name in recipe.data]
    small = ("steps=2", "batch=2", "held_out=2", "validate_every=0")
    return [*data, *(f"stages.{stage.name}.{key}" for stage in recipe.stages for key in small)]
