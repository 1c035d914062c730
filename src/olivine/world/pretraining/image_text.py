"""What tiny-CLIP and tiny-SigLIP share: images against captions, in batches with scenes that differ in one object.

A batch of 32,768 contains hard negatives anyway; one of this size has to be given them. The towers and losses are in
`clip` and `siglip`.
"""

from abc import abstractmethod
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from olivine.files import write_json
from olivine.model.towers.family import TowerFamily
from olivine.random_state import RandomState
from olivine.world.drawing import draw
from olivine.world.language import Mentions, article, caption, noun_phrase
from olivine.world.pretraining.curriculum import world_tokenizer
from olivine.world.pretraining.loop import Pretraining, muon
from olivine.world.pretraining.towers import SHAPE, TRAINING_ATTENTION, as_pixels, close_up, patches_of, probe
from olivine.world.sampling import sample_scene
from olivine.world.scene import Scene
from olivine.world.variations import PROPERTIES, varied

#: Of the space in which images and captions are compared.
WIDTH = 128
_TEXT_LAYERS = 1
_VOCABULARY = 1024
_MAX_TOKENS = 96
_KEEP = 0.95
#: This first share of the training uses close-ups of objects, in batches this many times as large: the appearance of
#: classes is learnt there at a tenth of the cost.
_CLOSE_UP_SHARE, _CLOSE_UP_FACTOR = 0.5, 3
#: Captions mostly omit places and backdrop, as people's do: a model that could match by those alone would not learn
#: what the objects are (measured: classes were not learnt).
_KEEP_PLACES = 0.5


class ImageTextPretraining(Pretraining):
    """A tower beside a text encoder that is dropped at the end.

    Args:
        steps, batch: optimiser steps, and images per step, in groups of `variants` that differ in one property.

    Attributes:
        name: decides, with the seed, which scenes it is shown.
        family: the tower's.
    """

    name: ClassVar[str]
    family: ClassVar[type[TowerFamily]]

    def __init__(self, steps: int, batch: int, seed: int, *, variants: int = 4, peak: float = 3e-3) -> None:
        self.steps, self.peak = steps, peak
        self._batch, self._variants, self._seed = batch, variants, seed
        self.tokenizer = world_tokenizer(seed, _VOCABULARY)
        with RandomState(seed).active():
            self.tower = self.new_tower()
            self._text = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(self.tokenizer),
                    hidden_size=SHAPE.hidden,
                    intermediate_size=4 * SHAPE.hidden,
                    num_hidden_layers=_TEXT_LAYERS,
                    num_attention_heads=SHAPE.heads,
                    max_position_embeddings=_MAX_TOKENS,
                    hidden_act="gelu",
                    bos_token_id=self.tokenizer.bos_token_id,
                    eos_token_id=self.tokenizer.eos_token_id,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            )
            for module in (self.tower, self._text):
                module.set_attn_implementation(TRAINING_ATTENTION)
            self.heads = self.new_heads()
        self.trained = nn.ModuleDict({"tower": self.tower, "text": self._text, "heads": self.heads})
        self.optimizers = muon(self.trained, (self.tower, self._text), 0.1)

    @abstractmethod
    def new_tower(self) -> Any:
        """Return the tower, at random."""

    @abstractmethod
    def new_heads(self) -> "Heads":
        """Return what maps both sides into one space, at random."""

    @abstractmethod
    def pooled(self, pixels: Tensor) -> Tensor:
        """Return the mean of the patches, `[images, hidden]`: a language model receives patches."""

    @abstractmethod
    def loss(self, seen: Tensor, read: Tensor, captions: list[str]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch and what else to log.

        Args:
            seen, read: `[batch, WIDTH]`, images and captions, of length one each row.
            captions: the texts, for finding equal ones.
        """

    def step(self, index: int) -> dict[str, float]:
        """Compute the loss's gradients; every other caption of the batch is a negative."""
        images, captions = self._pairs(index)
        seen, read = self._embed(images, captions)
        loss, more = self.loss(seen, read, captions)
        loss.backward()
        right = float(((seen @ read.T).argmax(1).cpu() == torch.arange(len(captions))).float().mean())
        return {"loss": loss.item(), "matched": right, **more}

    def _pairs(self, index: int) -> tuple[NDArray[np.uint8], list[str]]:
        rng = Random(f"{self._seed}/{self.name}/{index}")
        if index < _CLOSE_UP_SHARE * self.steps:
            return self._close_ups(index, rng)
        scenes: list[Scene] = []
        while len(scenes) < self._batch:
            first = sample_scene(self._seed, self.name, index * self._batch + len(scenes))
            group = [first]
            while len(group) < self._variants:
                other = varied(first, rng, rng.choice(PROPERTIES))
                if other is not None:
                    group.append(other[0])
            scenes += group
        return np.stack([draw(one) for one in scenes]), [
            caption(one, rng, keep=_KEEP, keep_places=_KEEP_PLACES) for one in scenes
        ]

    def _close_ups(self, index: int, rng: Random) -> tuple[NDArray[np.uint8], list[str]]:
        size = self._batch * _CLOSE_UP_FACTOR
        images: list[NDArray[np.uint8]] = []
        captions: list[str] = []
        first = index * size
        while len(captions) < size:
            scene = sample_scene(self._seed, f"{self.name}-close-up", first + len(captions), objects=5)
            image = draw(scene)
            for obj in scene.objects:
                images.append(close_up(image, obj))
                mentions = Mentions(*(rng.random() < likely for likely in (_KEEP, _KEEP, _KEEP, _KEEP, 0.0)))
                captions.append(f"{article(noun_phrase(obj, mentions))}.")
        return np.stack(images[:size]), captions[:size]

    def _embed(self, images: NDArray[np.uint8], captions: list[str]) -> tuple[Tensor, Tensor]:
        pooled = self.pooled(as_pixels(images, self.family.statistics).to(self.device))
        encoded = self.tokenizer(
            captions, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt", padding_side="right"
        ).to(self.device)
        states = self._text(**{k: encoded[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
        real = encoded.attention_mask.unsqueeze(-1).to(states.dtype)
        read = (states * real).sum(dim=1) / real.sum(dim=1)
        return F.normalize(self.heads.image(pooled), dim=-1), F.normalize(self.heads.text(read), dim=-1)

    @torch.no_grad()
    def figures(self, rounds: int = 10) -> dict[str, Any]:
        """Measure retrieval of an image's caption among 100, and the linear probe."""
        self.trained.eval()
        right = 0
        for number in range(rounds):
            rng = Random(f"{self._seed}/retrieval/{number}")
            scenes = [sample_scene(self._seed, "retrieval", 100 * number + i) for i in range(100)]
            seen, read = self._embed(
                np.stack([draw(one) for one in scenes]), [caption(one, rng, keep=1.0) for one in scenes]
            )
            right += int(((seen @ read.T).argmax(1).cpu() == torch.arange(100)).sum())
        self.trained.train()
        return {
            "parameters": sum(parameter.numel() for parameter in self.tower.parameters()),
            "retrieval_1_of_100": round(right / rounds, 2),
            "probe": probe(self._patches, self._seed),
        }

    def _patches(self, images: NDArray[np.uint8]) -> Tensor:
        prefix = self.family().prefix(self.tower.config)
        return patches_of(self.tower, as_pixels(images, self.family.statistics), prefix=prefix)

    def save(self, folder: Path) -> None:
        """Save the tower in bf16, with the statistics that its images are normalised by."""
        self.tower.to(torch.bfloat16).save_pretrained(folder)
        mean, deviation = self.family.statistics
        write_json(folder / "preprocessor_config.json", {"image_mean": mean, "image_std": deviation})


class Heads(nn.Module):
    """Linear maps of both sides into one space, and what similarities are multiplied by, as a logarithm."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.image = nn.Linear(SHAPE.hidden, WIDTH, bias=False)
        self.text = nn.Linear(SHAPE.hidden, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def scale(self) -> Tensor:
        """Return the multiplier of similarities, at most 100."""
        return self.log_scale.exp().clamp(max=100)
