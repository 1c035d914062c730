"""tiny-DINOv2: a student agrees with its own moving average over crops and over hidden patches; no text.

After DINOv2 (arXiv:2304.07193): the DINO loss between crops, the iBOT loss on hidden patches of the global crops,
teacher targets centred by Sinkhorn-Knopp, and the KoLeo spread; and as in MoCo v3 (arXiv:2104.02057; no
predictor) the student's crop must be told from all others of the batch by the teacher's of the same image, which
clusters alone do not ask for. Things close up in one scene count as others: what is about them is alike. A crop is told
by the mean of its patches, as tiny-CLIP's images are, since patches are what a language model is shown. Crops are
neither mirrored nor resized: here things face left or right, and are small or large.
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
from olivine.model.build import STATISTICS
from olivine.random_state import RandomState
from olivine.world.drawing import draw
from olivine.world.pretraining.loop import Pretraining, muon
from olivine.world.pretraining.towers import SHAPE, TRAINING_ATTENTION, as_pixels, close_up, patches_of, probe
from olivine.world.sampling import scene
from olivine.world.scene import SIDE

#: Few enough that a batch's crops share them: with more, each crop had some of its own and nothing was learnt.
_CROP_PROTOTYPES, _PATCH_PROTOTYPES = 128, 256
_BOTTLENECK = 64
#: Crops keep the image's scale: sizes mean something here (things are small or large).
_GLOBAL_SIDE, _LOCAL_SIDE = 80, 32
#: The first so much of the training shows things close up, as tiny-CLIP's does.
_CLOSE_UP_SHARE, _CLOSE_UP_FROM, _CLOSE_UP_SIDE = 0.8, 64, 48
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE, _PICTURE_TEMPERATURE = 0.1, 0.03, 0.1
_KOLEO = 0.1
#: How much of a crop is hidden at least, in half of the crops.
_HIDDEN = (0.2, 0.5)
_MOMENTUM = 0.95
#: How much darker or brighter a crop may be.
_LIT = (0.8, 1.2)
#: The share of images of which each crop is recoloured, so that something else must be seen in them. They have
#: crop prototypes of their own: the others' may go on telling colours.
_RECOLOURED = 0.5
_STATISTICS = STATISTICS["dinov2"]


class Dinov2Pretraining(Pretraining):
    """A `Dinov2Model` taught by its own moving average.

    Args:
        steps, batch: how long; `batch` close-ups or images a step, each in two global and `local_crops` local crops.
    """

    def __init__(self, steps: int, batch: int, seed: int, *, local_crops: int = 2, peak: float = 3e-3) -> None:
        self.steps, self.peak = steps, peak
        self._batch, self._local_crops, self._seed = batch, local_crops, seed
        self._many = round(_RECOLOURED * batch)
        with RandomState(seed).active():
            student = _Network()
        self._teacher = copy.deepcopy(student).requires_grad_(False)
        # The teacher lies in a training checkpoint with the student, and takes no gradients.
        self.trained = nn.ModuleDict({"student": student, "teacher": self._teacher})
        self._student = student
        self.optimizers = muon(student, (student.tower,), 0.05)

    def step(self, index: int) -> dict[str, float]:
        """The teacher sees global crops whole; the student sees half of them partly hidden, and local crops."""
        drawn = np.random.default_rng([self._seed, index])
        whole, parts = self._crops(index, drawn)
        hidden = torch.from_numpy(_hide(drawn, len(whole), whole.shape[-1] // SHAPE.patch)).to(self.device)
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
        """The teacher's moving average; the longer the training, the slower it moves (`_MOMENTUM` to 1)."""
        keep = 1 - (1 - _MOMENTUM) * (1 + np.cos(np.pi * index / self.steps)) / 2
        with torch.no_grad():
            for old, new in zip(self._teacher.parameters(), self._student.parameters(), strict=True):
                old.lerp_(new, 1 - keep)

    def _crops(self, index: int, drawn: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Two global crops of each source `[2 * batch, 3, side, side]` and the local ones `[n * batch, 3, 32, 32]`."""
        close = index < _CLOSE_UP_SHARE * self.steps
        images = self._close_ups(index) if close else self._scenes(index)

        def cut(times: int, side: int) -> Tensor:
            crops = [_crop(image, drawn, side) for _ in range(times) for image in images]
            shown = [_recoloured(c, drawn) if i % self._batch < self._many else c for i, c in enumerate(crops)]
            return as_pixels(np.stack(shown), _STATISTICS).to(self.device)

        return cut(2, _CLOSE_UP_SIDE if close else _GLOBAL_SIDE), cut(self._local_crops, _LOCAL_SIDE)

    def _scenes(self, index: int) -> list[NDArray[np.uint8]]:
        first = index * self._batch
        return [draw(scene(self._seed, "dinov2", first + place)) for place in range(self._batch)]

    def _close_ups(self, index: int) -> list[NDArray[np.uint8]]:
        """A thing and what is about it, 64 pixels wide and high; as many things an image as there can be."""
        found: list[NDArray[np.uint8]] = []
        while len(found) < self._batch:
            shown = scene(self._seed, "dinov2-close-up", index * self._batch + len(found), things=5)
            image = draw(shown)
            found += [close_up(image, thing, _CLOSE_UP_FROM) for thing in shown.things]
        return found[: self._batch]

    def _is_recoloured(self, states: Tensor) -> Tensor:
        return torch.arange(len(states), device=states.device) % self._batch < self._many

    def _clustered(self, network: "_Network", crops: Tensor) -> Tensor:
        """Similarities `[crops, prototypes]` to the prototypes of recoloured crops, or to those of the others."""
        chosen = self._is_recoloured(crops)[:, None]
        return torch.where(chosen, network.recoloured_head(crops), network.crop_head(crops))

    def _crop_targets(self, crops: Tensor) -> Tensor:
        similar, chosen = self._clustered(self._teacher, crops), self._is_recoloured(crops)
        for some in (chosen, ~chosen):
            similar[some] = sinkhorn(similar[some])
        return similar

    def _mean_over_pairs(self, loss: Callable[[Tensor, Tensor], Tensor], told: Tensor, views: Tensor) -> Tensor:
        """Every student crop against the teacher's global crops of its image, but none against itself."""
        first, second = told.chunk(2)
        others = views.chunk(2 + self._local_crops)
        terms = [loss(second, others[0]), loss(first, others[1])]
        terms += [loss(target, view) for view in others[2:] for target in (first, second)]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def figures(self) -> dict[str, Any]:
        """The linear probe of the teacher, which is what is kept."""
        tower = self._teacher.tower.eval()
        return {
            "parameters": sum(parameter.numel() for parameter in tower.parameters()),
            "probe": probe(lambda images: patches_of(tower, as_pixels(images, _STATISTICS)), self._seed),
        }

    def save(self, folder: Path) -> None:
        """The teacher in bf16, with the statistics that its images are normalised by."""
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
                # As for the language models: the default suits wider networks.
                initializer_range=SHAPE.hidden**-0.5,
            )
        )
        self.tower.set_attn_implementation(TRAINING_ATTENTION)
        self.crop_head, self.recoloured_head = _Head(_CROP_PROTOTYPES), _Head(_CROP_PROTOTYPES)
        self.patch_head, self.image_head = _Head(_PATCH_PROTOTYPES), _Projection()

    def patches(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """`[crops, patches, hidden]`; those that `hidden` marks are not seen."""
        states: Tensor = self.tower(pixels, bool_masked_pos=hidden).last_hidden_state[:, 1:]
        return states


class _Projection(nn.Module):
    """A small network to a sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(SHAPE.hidden, 2 * SHAPE.hidden), nn.GELU(), nn.Linear(2 * SHAPE.hidden, _BOTTLENECK)
        )

    def forward(self, states: Tensor) -> Tensor:
        # What is divided by a temperature afterwards would be too coarse in bf16.
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
    """Soft assignments `[states, prototypes]` that use every prototype alike (SwAV's centring, as DINOv2 has it)."""
    weights = torch.exp((similarities - similarities.max()) / _TEACHER_TEMPERATURE)
    for _ in range(rounds):
        weights = weights / weights.sum(0, keepdim=True) / weights.shape[1]
        weights = weights / weights.sum(1, keepdim=True) / weights.shape[0]
    return weights * weights.shape[0]


def koleo(states: Tensor) -> Tensor:
    """DINOv2's regulariser: minus the mean log distance of each state to its nearest neighbour on the sphere."""
    on_sphere = F.normalize(states, dim=-1)
    with torch.no_grad():
        nearest = (on_sphere @ on_sphere.T).fill_diagonal_(-1).argmax(1)
    # One state may be the nearest of many: with several threads the gradient of an index adds those in any order.
    return -torch.log((on_sphere - on_sphere.index_select(0, nearest)).norm(dim=-1) + 1e-8).mean()


def _agreement(targets: Tensor, similarities: Tensor) -> Tensor:
    return -(targets * F.log_softmax(similarities / _STUDENT_TEMPERATURE, dim=-1)).sum(-1).mean()


def _found(images: Tensor, crops: Tensor) -> Tensor:
    """How surely each crop's own image is found among all of the batch."""
    # In bf16 like the rest of the step: at this temperature that did no harm.
    return F.cross_entropy(crops @ images.T / _PICTURE_TEMPERATURE, torch.arange(len(crops), device=crops.device))


def _crop(image: NDArray[np.uint8], drawn: np.random.Generator, side: int) -> NDArray[np.uint8]:
    left, top = drawn.integers(0, len(image) - side + 1, size=2)
    cut = image[top : top + side, left : left + side].astype(np.float32)
    lit: NDArray[np.uint8] = np.clip(cut * drawn.uniform(*_LIT), 0, 255).astype(np.uint8)
    return lit


def _recoloured(crop: NDArray[np.uint8], drawn: np.random.Generator) -> NDArray[np.uint8]:
    """Its hues turned by any angle, paler or stronger, more or less contrast, sometimes as a negative."""
    angle, saturation = drawn.uniform(0, 2 * np.pi), drawn.uniform(0.3, 1.3)
    grey = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turned = np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * across
    values = crop.astype(np.float32) / 255 @ (grey + saturation * turned).T.astype(np.float32)
    if drawn.random() < 0.4:
        values = 1 - values
    values = 0.5 + (values - 0.5) * np.float32(drawn.uniform(0.6, 1.2)) + np.float32(drawn.uniform(-0.15, 0.15))
    shown: NDArray[np.uint8] = np.clip(255 * values, 0, 255).astype(np.uint8)
    return shown


def _hide(drawn: np.random.Generator, crops: int, grid: int) -> NDArray[np.bool_]:
    """Which patches the student does not see: in half of the crops, blocks until `_HIDDEN` of each are gone."""
    hidden = np.zeros((crops, grid, grid), bool)
    for place in drawn.permutation(crops)[: (crops + 1) // 2]:
        share = float(drawn.uniform(*_HIDDEN))
        while hidden[place].mean() < share:
            height, width = drawn.integers(1, 3, size=2)
            top, left = drawn.integers(0, grid - height + 1), drawn.integers(0, grid - width + 1)
            hidden[place, top : top + height, left : left + width] = True
    return hidden.reshape(crops, -1)
