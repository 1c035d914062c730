"""Training called from a user's program does not change that program's random states and warning filters."""

import logging
import random
import warnings

import numpy as np
import torch
from tiny_runs import QUIET, make_recipe, same, weights

from olivine.training.run import train


def state():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),  # noqa: NPY002  # the legacy global one is meant
        list(warnings.filters),
        list(logging.getLogger().handlers),
        list(logging.getLogger("olivine").handlers),
    )


def test_training_leaves_the_callers_numbers_and_filters(dataset, tmp_path):
    before = state()
    stages = [{"name": "align", "steps": 3, "save_every": 1}]
    one = train(make_recipe(dataset, tmp_path / "one", stages=stages), QUIET)
    assert state() == before
    torch.rand(5)  # the caller's random state affects nothing
    two = train(make_recipe(dataset, tmp_path / "two", stages=stages), QUIET)
    assert same(weights(one), weights(two))
