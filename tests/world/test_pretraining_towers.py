"""What the towers share, tiny-SigLIP's loss, and how tiny-DINOv2 learns: its crops and its targets."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from olivine.world.pretraining import dinov2
from olivine.world.pretraining.dinov2 import Dinov2Pretraining, koleo, sinkhorn
from olivine.world.pretraining.siglip import sigmoid_loss
from olivine.world.pretraining.towers import SHAPE, around, covered
from olivine.world.sampling import sample_scenes

STEPS = 6


def test_half_of_the_crops_are_whole_and_half_of_the_images_unchanged():
    drawn = np.random.default_rng(0)
    hidden = dinov2._hide(drawn, 20, 5)
    assert sorted(row.any() for row in hidden) == [False] * 10 + [True] * 10
    assert all(0.2 <= row.mean() <= 0.7 for row in hidden if row.any())
    crop = np.full((8, 8, 3), (214, 38, 38), np.uint8)
    shown = np.stack([dinov2._recoloured(crop, drawn)[0, 0] for _ in range(50)]).astype(int)
    assert len({tuple(colour) for colour in shown.tolist()}) > 40
    assert all((shown.argmax(1) == channel).any() for channel in range(3)), "any hue can become any other"


@pytest.mark.parametrize(("index", "side"), [(0, dinov2._CLOSE_UP_SIDE), (STEPS - 1, dinov2._GLOBAL_SIDE)])
def test_crops_of_half_of_the_images_are_recoloured(index, side, monkeypatch):
    monkeypatch.setattr(dinov2, "_recoloured", lambda crop, drawn: np.zeros_like(crop))
    job = Dinov2Pretraining(STEPS, 4, 0)
    whole, parts = job._crops(index, np.random.default_rng(0))
    assert whole.shape == (8, 3, side, side)
    assert parts.shape == (8, 3, dinov2._LOCAL_SIDE, dinov2._LOCAL_SIDE)
    for crops in (whole, parts):
        recoloured = [bool((crop == crop[:, :1, :1]).all()) for crop in crops]
        assert recoloured == [True, True, False, False] * 2, "all crops of an image the same way"
        assert job._is_recoloured(crops).tolist() == recoloured


def test_views_are_predicted_from_the_other_crops_of_their_image():
    job = Dinov2Pretraining(STEPS, 2, 0, local_crops=1)
    pairs = []

    def loss(told, view):
        pairs.append((told.tolist(), view.tolist()))
        return torch.tensor(float(len(pairs)))

    mean = job._mean_over_pairs(loss, torch.tensor([1, 2, 11, 12]), torch.tensor([1, 2, 11, 12, 21, 22]))
    first, second = [1, 2], [11, 12]
    assert pairs == [(second, first), (first, second), (first, [21, 22]), (second, [21, 22])]
    assert mean == 2.5


def test_recoloured_crops_have_their_own_targets():
    job = Dinov2Pretraining(STEPS, 4, 0)
    crops = torch.randn(8, SHAPE.hidden, generator=torch.Generator().manual_seed(0))
    chosen = job._is_recoloured(crops)
    with torch.no_grad():
        targets = job._crop_targets(crops)
        for some, head in ((chosen, job._teacher.recoloured_head), (~chosen, job._teacher.crop_head)):
            torch.testing.assert_close(targets[some], sinkhorn(head(crops[some])))


def test_the_sigmoid_loss_by_hand():
    """Two images with one caption, a third with another: five pairs of nine, each judged alone."""
    seen = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    read = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = sigmoid_loss(seen, read, torch.tensor(2.0), torch.tensor(-1.0), ["a", "a", "b"])
    pairs = [2 * 1 - 1, 2 * 1 - 1, 2 * 0.6 - 1, 2 * 0.6 - 1, 2 * 1 - 1]
    others = [2 * 0 - 1, 2 * 0.8 - 1, 2 * 0 - 1, 2 * 0 - 1]
    logits = [*pairs, *(-logit for logit in others)]
    assert float(loss) == pytest.approx(sum(math.log(1 + math.exp(-logit)) for logit in logits) / 3)


def test_a_crop_is_found_by_its_own_image():
    images = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    right = dinov2._found(images, images)
    assert right < dinov2._found(images, images.roll(1, 0))


def test_sinkhorn_uses_all_prototypes_equally():
    similarities = torch.nn.functional.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    weights = sinkhorn(similarities, rounds=50)
    torch.testing.assert_close(weights.sum(1), torch.ones(64))
    torch.testing.assert_close(weights.sum(0), torch.full((16,), 4.0), rtol=0.02, atol=0.02)


def test_koleo_decreases_as_states_spread():
    close = torch.tensor([[1.0, 0.0], [0.999, 0.04], [-1.0, 0.01], [-1.0, 0.0]])
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert koleo(apart) < koleo(close)


def test_covered_pixels_lie_on_the_object():
    for shown in sample_scenes(0, "t", 20):
        for obj in shown.objects:
            for patch in covered(obj):
                x, y = (patch % SHAPE.grid + 0.5) * SHAPE.patch, (patch // SHAPE.grid + 0.5) * SHAPE.patch
                assert abs(x - obj.x) <= obj.radius + SHAPE.patch / 2
                assert abs(y - obj.y) <= obj.radius + SHAPE.patch / 2


def test_the_patches_around_an_object_meet_near_its_middle():
    for shown in sample_scenes(0, "t", 50):
        for obj in shown.objects:
            first, second, third, fourth = around(obj)
            assert (second - first, third - first, fourth - third) == (1, SHAPE.grid, 1)
            row, column = divmod(fourth, SHAPE.grid)
            assert abs(column * SHAPE.patch - obj.x) <= SHAPE.patch / 2
            assert abs(row * SHAPE.patch - obj.y) <= SHAPE.patch / 2
