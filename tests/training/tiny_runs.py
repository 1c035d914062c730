"""A tiny run that several test files kill, truncate, distribute and compare."""

import torch
from rich.console import Console

from olivine.model import checkpoint
from olivine.recipe import Recipe
from olivine.testing import tiny_model_recipe
from olivine.training import stage as stage_module

QUIET = Console(quiet=True)


def make_recipe(dataset, output, *, stages=None, depth=2, model=None, **more):
    base = {"train": ["connector", "language"], "data": "all", "batch": 6, "lr": 1e-2, "sequence_tokens": 160}
    selected = stages or [{"name": "align", "train": ["connector"], "steps": 3}, {"name": "instruct", "steps": 6}]
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": (model or tiny_model_recipe(depth=depth)).model_dump(by_alias=True),
            "data": {"all": {"json": dataset, "images": dataset.parent / "images", "turns": "independent"}},
            "stages": [{**base, **stage} for stage in selected],
            "optimizer": {"precision": "fp32", **more.pop("optimizer", {})},
            "output": output,
            **more,
        }
    )


def weights(folder):
    return checkpoint.load(folder).model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupt_at(monkeypatch, step, interrupt):
    """Call `interrupt` in the middle of a step, once."""
    original = stage_module.Stage._step
    done = []

    def taken(self, number, batch, waited, log):
        if number == step and not done:
            done.append(number)
            interrupt()
        return original(self, number, batch, waited, log)

    monkeypatch.setattr(stage_module.Stage, "_step", taken)
