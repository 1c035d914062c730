"""Images travel as bytes and are normalised on the device, to the same bits as on the CPU."""

import numpy as np
import pytest
import torch
from tiny_runs import QUIET, make_recipe

from olivine.data.image_fit import ImageTransform
from olivine.evaluation.engine import AnsweringEngine
from olivine.model.pixels import look_up, normalise_on
from olivine.model.vlm import VisionLanguageModel
from olivine.records import Question
from olivine.testing import write_images
from olivine.training.run import train

TRANSFORM = ImageTransform(16, "pad", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.fixture
def pixels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))


def test_every_value_is_rescaled_and_normalised_as_in_transformers(pixels):
    """In the order of transformers' operations, with a rounding after each."""
    scaled = (pixels.numpy() * (1 / 255)).astype(np.float32)
    scaled -= np.asarray(TRANSFORM.mean, np.float32)
    scaled /= np.asarray(TRANSFORM.std, np.float32)
    found = normalise_on(pixels, TRANSFORM, torch.device("cpu"), torch.float32)
    assert torch.equal(found, torch.from_numpy(scaled.transpose(0, 3, 1, 2)))
    assert found.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_device_gives_the_same_bits(pixels, dtype):
    table = torch.from_numpy(TRANSFORM.channel_values()).to(dtype).flatten()
    assert torch.equal(look_up(pixels, table), normalise_on(pixels, TRANSFORM, torch.device("cpu"), dtype))
    sent = normalise_on(pixels, TRANSFORM, torch.device("meta"), dtype)
    assert (sent.shape, sent.dtype) == ((5, 3, 16, 16), dtype)


@pytest.fixture
def seen(monkeypatch):
    """The input of the tower's forward pass."""
    given = []
    original = VisionLanguageModel.patch_features
    monkeypatch.setattr(
        VisionLanguageModel, "patch_features", lambda self, pixels: given.append(pixels) or original(self, pixels)
    )
    return given


@pytest.mark.parametrize("parts", [["connector"], ["vision", "connector"]])
def test_a_training_sends_bytes(dataset, tmp_path, seen, parts):
    train(make_recipe(dataset, tmp_path / "run", stages=[{"name": "a", "train": parts, "steps": 2}]), QUIET)
    assert seen
    assert all(pixels.dtype == torch.uint8 and pixels.shape[-1] == 3 for pixels in seen)


def test_the_engine_sends_bytes(vlm, tmp_path, seen):
    (name,) = write_images(tmp_path, 1)
    list(AnsweringEngine(vlm, max_new_tokens=2).answer([Question("q", "What?", name, "q")], tmp_path))
    assert [pixels.dtype for pixels in seen] == [torch.uint8]
