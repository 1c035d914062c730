"""With several threads, the backbones' pretraining gives the same gradients every time, as training does."""

import pytest
import torch

from olivine.world.pretraining.clip import ClipPretraining
from olivine.world.pretraining.curriculum import Schedule
from olivine.world.pretraining.dinov2 import Dinov2Pretraining, koleo
from olivine.world.pretraining.gemma import SIZES
from olivine.world.pretraining.language import LanguagePretraining
from olivine.world.pretraining.siglip import SiglipPretraining
from repeated_bits import bits, different, no_shared_additions


@pytest.fixture(autouse=True)
def _two_threads():
    """Set two threads, whatever other tests have set: atomic additions occur only with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_gradients_of_nearest_neighbours():
    """One state may be the nearest neighbour of many."""
    states = 1 + torch.randn(1200, 96, generator=torch.Generator().manual_seed(0))
    states[0] = 1

    def gradient():
        leaf = states.clone().requires_grad_()
        koleo(leaf).backward()
        return bits(leaf.grad)

    assert different(gradient) == 1


BACKBONES = {
    "clip": lambda: ClipPretraining(2, 24, 0, variants=2),
    "siglip": lambda: SiglipPretraining(2, 24, 0, variants=2),
    "dinov2": lambda: Dinov2Pretraining(2, 24, 0, local_crops=2),
    "language": lambda: LanguagePretraining(SIZES["small"], 640, Schedule(2, 1e-3, tokens=2500, questions=12), 0),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_pretraining_a_backbone_gives_the_same_gradients(name):
    def gradients():
        job = BACKBONES[name]()
        job.trained.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            job.step(1)
        return bits(*(p.grad for p in job.trained.parameters() if p.grad is not None))

    with no_shared_additions():
        first = gradients()
    assert gradients() == first
