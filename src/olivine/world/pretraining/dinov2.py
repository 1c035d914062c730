"""tiny-DINOv2: a student agrees with its own moving average over crops and over hidden patches; no text.

After DINOv2 (arXiv:2304.07193): the DINO loss between crops, the iBOT loss on hidden patches of the global crops,
teacher targets centred by Sinkhorn-Knopp, and the KoLeo regulariser; and as in MoCo v3 (arXiv:2104.02057; no
predictor) the student's crop must match the teacher's of the same image among all of the batch, which clusters alone
do not require. Close-ups of one scene count as different images, although their surroundings are alike. A crop is
represented by the mean of its patches, as tiny-CLIP's images are, since a language model receives patches. Crops are
neither mirrored nor resized: here objects face left or right, and are small or large.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from olivine.files import write_json
from olivine.model.towers.dinov2 import Dinov2
from olivine.random_state import RandomState
from olivine.world.drawing import draw
from olivine.world.pretraining.loop import Pretraining, muon
from olivine.world.pretraining.towers import SHAPE, TRAINING_ATTENTION, as_pixels, close_up, patches_of, probe
from olivine.world.sampling import sample_scene
from olivine.world.scene import SIDE

#: Few enough that a batch's crops share them: with more, each crop had its own and nothing was learnt.
_CROP_PROTOTYPES, _PATCH_PROTOTYPES = 128, 256
_BOTTLENECK = 64
#: Crops keep the image's scale: size is a property here (objects are small or large).
_GLOBAL_SIDE, _LOCAL_SIDE = 80, 32
#: This first share of the training uses close-ups of objects, as tiny-CLIP's does.
_CLOSE_UP_SHARE, _CLOSE_UP_FROM, _CLOSE_UP_SIDE = 0.8, 64, 48
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE, _IMAGE_TEMPERATURE = 0.1, 0.03, 0.1
_KOLEO = 0.1
#: Minimum and maximum hidden share of a crop, in half of the crops.
_HIDDEN = (0.2, 0.5)
_MOMENTUM = 0.95
#: Range of a crop's brightness factor.
_LIT = (0.8, 1.2)
#: The share of images whose crops are recoloured, so that features other than colour are learnt. They have their own
#: crop prototypes: the others' can still represent colours.
_RECOLOURED = 0.5
_STATISTICS = Dinov2.statistics


class Dinov2Pretraining(Pretraining):
    """A `Dinov2Model` taught by its own moving average.

    Args:
        steps, batch: optimiser steps, and close-ups or images per step, each in two global and `local_crops` local
            crops.
    """

    def __init__(self, steps: int, batch: int, seed: int, *, local_crops: int = 2, peak: float = 3e-3) -> None:
        self.steps, self.peak = steps, peak
        self._batch, self._local_crops, self._seed = batch, local_crops, seed
        self._recoloured_images = round(_RECOLOURED * batch)
        with RandomState(seed).active():
            student = _Network()
        self._teacher = copy.deepcopy(student).requires_grad_(False)
        # Training checkpoints hold the teacher beside the student; it takes no gradients.
        self.trained = nn.ModuleDict({"student": student, "teacher": self._teacher})
        self._student = student
        self.optimizers = muon(student, (student.tower,), 0.05)

    def step(self, index: int) -> dict[str, float]:
        """Compute gradients: the teacher sees whole global crops, the student also local and partly hidden ones."""
        rng = np.random.default_rng([self._seed, index])
        whole, parts = self._crops(index, rng)
        hidden = torch.from_numpy(_hide(rng, len(whole), whole.shape[-1] // SHAPE.patch)).to(self.device)
        with torch.no_grad():
            patches = self._teacher.patches(whole)
            crops = patches.mean(1)
            images, crop_targets = self._teacher.image_head(crops), self._crop_targets(crops)
            patch_targets = sinkhorn(self._teacher.patch_head(patches[hidden]))
        seen = self._student.patches(whole, hidden)
        views = torch.cat([seen.mean(1), self._student.patches(parts).mean(1)])
        between_crops = self._mean_over_pairs(_agreement, crop_targets, self._clustered(self._student, views))
        found = self._mean_over_pairs(_found, images, self._student.image_head(views))
        on_patches = _agreement(patch_targets, self._student.patch_head(seen[hidden]))
        spread = koleo(views[: self._batch]) + koleo(views[self._batch : 2 * self._batch])
        loss = between_crops + found + on_patches + _KOLEO * spread / 2
        loss.backward()
        return {
            "loss": loss.item(),
            "crops": between_crops.item(),
            "pictures": found.item(),
            "patches": on_patches.item(),
            "koleo": spread.item(),
        }

    def after_step(self, index: int) -> None:
        """Update the teacher's moving average, slower as training proceeds (`_MOMENTUM` to 1)."""
        keep = 1 - (1 - _MOMENTUM) * (1 + np.cos(np.pi * index / self.steps)) / 2
        with torch.no_grad():
            for old, new in zip(self._teacher.parameters(), self._student.parameters(), strict=True):
                old.lerp_(new, 1 - keep)

    def _crops(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return two global crops per source `[2 * batch, 3, side, side]`, and local ones `[n * batch, 3, 32, 32]`."""
        close = index < _CLOSE_UP_SHARE * self.steps
        images = self._close_ups(index) if close else self._scenes(index)

        def cut(times: int, side: int) -> Tensor:
            crops = [_crop(image, rng, side) for _ in range(times) for image in images]
            crops = [
                _recoloured(c, rng) if i % self._batch < self._recoloured_images else c for i, c in enumerate(crops)
            ]
            return as_pixels(np.stack(crops), _STATISTICS).to(self.device)

        return cut(2, _CLOSE_UP_SIDE if close else _GLOBAL_SIDE), cut(self._local_crops, _LOCAL_SIDE)

    def _scenes(self, index: int) -> list[NDArray[np.uint8]]:
        first = index * self._batch
        return [draw(sample_scene(self._seed, "dinov2", first + offset)) for offset in range(self._batch)]

    def _close_ups(self, index: int) -> list[NDArray[np.uint8]]:
        """Return objects with their surroundings, 64 pixels wide and high, from scenes of five."""
        found: list[NDArray[np.uint8]] = []
        while len(found) < self._batch:
            scene = sample_scene(self._seed, "dinov2-close-up", index * self._batch + len(found), objects=5)
            image = draw(scene)
            found += [close_up(image, obj, _CLOSE_UP_FROM) for obj in scene.objects]
        return found[: self._batch]

    def _is_recoloured(self, states: Tensor) -> Tensor:
        return torch.arange(len(states), device=states.device) % self._batch < self._recoloured_images

    def _clustered(self, network: "_Network", crops: Tensor) -> Tensor:
        """Return similarities `[crops, prototypes]` to the prototypes of recoloured or of other crops."""
        recoloured = self._is_recoloured(crops)[:, None]
        return torch.where(recoloured, network.recoloured_head(crops), network.crop_head(crops))

    def _crop_targets(self, crops: Tensor) -> Tensor:
        similar, recoloured = self._clustered(self._teacher, crops), self._is_recoloured(crops)
        for some in (recoloured, ~recoloured):
            similar[some] = sinkhorn(similar[some])
        return similar

    def _mean_over_pairs(self, loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor, views: Tensor) -> Tensor:
        """Return the mean loss of every student crop against the teacher's global crops of its image, except itself."""
        first, second = targets.chunk(2)
        others = views.chunk(2 + self._local_crops)
        terms = [loss(second, others[0]), loss(first, others[1])]
        terms += [loss(target, view) for view in others[2:] for target in (first, second)]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def figures(self) -> dict[str, Any]:
        """Measure the linear probe of the teacher, which is the model that is saved."""
        tower = self._teacher.tower.eval()
        return {
            "parameters": sum(parameter.numel() for parameter in tower.parameters()),
            "probe": probe(lambda images: patches_of(tower, as_pixels(images, _STATISTICS)), self._seed),
        }

    def save(self, folder: Path) -> None:
        """Save the teacher in bf16, with the statistics that its images are normalised by."""
        self._teacher.tower.to(torch.bfloat16).save_pretrained(folder)
        mean, deviation = _STATISTICS
        values = {"image_mean": mean, "image_std": deviation, "crop_size": {"height": SIDE, "width": SIDE}}
        write_json(folder / "preprocessor_config.json", values)


class _Network(nn.Module):
    """The tower with its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Dinov2Model(
            Dinov2Config(
                hidden_size=SHAPE.hidden,
                num_hidden_layers=SHAPE.layers,
                num_attention_heads=SHAPE.heads,
                image_size=SIDE,
                patch_size=SHAPE.patch,
                # As for the language models: the default is for wider networks.
                initializer_range=SHAPE.hidden**-0.5,
            )
        )
        self.tower.set_attn_implementation(TRAINING_ATTENTION)
        self.crop_head, self.recoloured_head = _Head(_CROP_PROTOTYPES), _Head(_CROP_PROTOTYPES)
        self.patch_head, self.image_head = _Head(_PATCH_PROTOTYPES), _Projection()

    def patches(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return `[crops, patches, hidden]`; patches that `hidden` marks are masked."""
        states: Tensor = self.tower(pixels, bool_masked_pos=hidden).last_hidden_state[:, 1:]
        return states


class _Projection(nn.Module):
    """A small network with outputs on the unit sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(SHAPE.hidden, 2 * SHAPE.hidden), nn.GELU(), nn.Linear(2 * SHAPE.hidden, _BOTTLENECK)
        )

    def forward(self, states: Tensor) -> Tensor:
        # Divided by a temperature afterwards: bf16 would be too coarse.
        with torch.autocast(states.device.type, enabled=False):
            return F.normalize(self.layers(states.float()), dim=-1)


class _Head(_Projection):
    """DINO's head: a projection's cosine similarities to prototypes."""

    def __init__(self, prototypes: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(prototypes, _BOTTLENECK))

    def forward(self, states: Tensor) -> Tensor:
        projected = super().forward(states)
        with torch.autocast(states.device.type, enabled=False):
            return projected @ F.normalize(self.prototypes, dim=-1).T


@torch.no_grad()
def sinkhorn(similarities: Tensor, rounds: int = 3) -> Tensor:
    """Return soft assignments `[states, prototypes]` that use every prototype equally (SwAV's centring)."""
    weights = torch.exp((similarities - similarities.max()) / _TEACHER_TEMPERATURE)
    for _ in range(rounds):
        weights = weights / weights.sum(0, keepdim=True) / weights.shape[1]
        weights = weights / weights.sum(1, keepdim=True) / weights.shape[0]
    return weights * weights.shape[0]


def koleo(states: Tensor) -> Tensor:
    """Return the KoLeo regulariser: minus the mean log distance of states to their nearest neighbours on the sphere."""
    on_sphere = F.normalize(states, dim=-1)
    with torch.no_grad():
        nearest = (on_sphere @ on_sphere.T).fill_diagonal_(-1).argmax(1)
    # One state may be nearest to many: with several threads the gradient of indexing adds those in any order.
    return -torch.log((on_sphere - on_sphere.index_select(0, nearest)).norm(dim=-1) + 1e-8).mean()


def _agreement(targets: Tensor, similarities: Tensor) -> Tensor:
    return -(targets * F.log_softmax(similarities / _STUDENT_TEMPERATURE, dim=-1)).sum(-1).mean()


def _found(images: Tensor, crops: Tensor) -> Tensor:
    """Return the loss of finding each crop's own image among all of the batch."""
    # In bf16 like the rest of the step: harmless at this temperature.
    return F.cross_entropy(crops @ images.T / _IMAGE_TEMPERATURE, torch.arange(len(crops), device=crops.device))


def _crop(image: NDArray[np.uint8], rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    left, top = rng.integers(0, len(image) - side + 1, size=2)
    cut = image[top : top + side, left : left + side].astype(np.float32)
    lit: NDArray[np.uint8] = np.clip(cut * rng.uniform(*_LIT), 0, 255).astype(np.uint8)
    return lit


def _recoloured(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rotate the hues by any angle, change saturation and contrast, sometimes invert."""
    angle, saturation = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.3)
    grey = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turned = np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * across
    values = crop.astype(np.float32) / 255 @ (grey + saturation * turned).T.astype(np.float32)
    if rng.random() < 0.4:
        values = 1 - values
    values = 0.5 + (values - 0.5) * np.float32(rng.uniform(0.6, 1.2)) + np.float32(rng.uniform(-0.15, 0.15))
    pixels: NDArray[np.uint8] = np.clip(255 * values, 0, 255).astype(np.uint8)
    return pixels


def _hide(rng: np.random.Generator, crops: int, grid: int) -> NDArray[np.bool_]:
    """Draw the patches hidden from the student: in half of the crops, blocks up to a share in `_HIDDEN`."""
    hidden = np.zeros((crops, grid, grid), bool)
    for index in rng.permutation(crops)[: (crops + 1) // 2]:
        share = float(rng.uniform(*_HIDDEN))
        while hidden[index].mean() < share:
            height, width = rng.integers(1, 3, size=2)
            top, left = rng.integers(0, grid - height + 1), rng.integers(0, grid - width + 1)
            hidden[index, top : top + height, left : left + width] = True
    return hidden.reshape(crops, -1)
