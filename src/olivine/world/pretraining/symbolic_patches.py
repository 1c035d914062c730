"""Scenes told cell by cell: where image tokens will stand, the words for what each patch shows, summed.

No image is drawn or seen: what lies where is the scene's data. What is asked of such scenes is in `curriculum`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from olivine.data.encoding import Example
from olivine.world.pretraining.towers import SHAPE, covered
from olivine.world.scene import CLASSES, Scene, SceneObject

#: For each image token of an example, the ids of the words that stand there together.
PatchWords = tuple[tuple[int, ...], ...]
#: The share of words that are told, so that none is relied on; how often an object's cell tells the backdrop, too.
_KEPT, _BACKDROP = 0.95, 0.3
#: What is added to the sums in training, in their own standard deviations: a connector will only come near to words.
_NOISE = 0.3


@dataclass(frozen=True, slots=True)
class Text:
    """What is read: an example, and what its image tokens stand for; no cells where it has none."""

    example: Example
    cells: PatchWords = ()


def symbolic_patch_captions(
    scene: Scene, tokenizer: Any, rng: Random, *, places: bool = True, kept: float = _KEPT
) -> PatchWords:
    """One entry a patch, row by row: the ids of the words for what lies there, or for backdrop and time.

    Args:
        places: whether where an object is, is among its words; else it must be known from where the token stands.
        kept: the likelihood of each word of an object.
    """
    cells = [[f" {scene.backdrop}", f" {scene.time}"] for _ in range(SHAPE.grid**2)]
    for obj in scene.objects:
        words = _words_of(obj, places)
        for place in covered(obj):
            cells[place] = [word for word in words if rng.random() < kept]
            if not cells[place] or rng.random() < _BACKDROP:
                cells[place].append(f" {scene.backdrop}")
    return tuple(tuple(token for word in cell for token in _ids(tokenizer, word)) for cell in cells)


def _words_of(obj: SceneObject, places: bool) -> list[str]:
    """With the space before them that they have inside of a sentence."""
    words = [obj.class_name, obj.colour, obj.size, *(obj.place.split() if places else ())]
    if CLASSES[obj.class_name].patterned:
        words.append(obj.pattern)
    words += [word for word in (obj.state, obj.writing) if word]
    said = [f" {word}" for word in words]
    if CLASSES[obj.class_name].property == "facing":
        # As replies begin with it: in a sum of plain words, nobody could tell where it is from which way it faces.
        said[-1] = obj.state
    return said


@lru_cache(4096)
def _ids(tokenizer: Any, word: str) -> tuple[int, ...]:
    return tuple(tokenizer(word, add_special_tokens=False).input_ids)


def embedded(
    embedding: nn.Embedding, ids: Tensor, texts: Sequence[Text], image_token: int, noise: torch.Generator | None
) -> Tensor:
    """`[tokens, hidden]` for the model's `inputs_embeds`: words as ever, at image tokens the sums of their cells.

    A sum is divided by the root of the number of its words, so that all are of about the same length.

    Args:
        ids: `[tokens]`, the texts packed in their order.
        noise: where noise is drawn from; None for none.
    """
    words: Tensor = embedding(ids)
    cells = [cell for text in texts for cell in text.cells]
    if not cells:
        return words
    counts = torch.tensor([len(cell) for cell in cells], device=ids.device)
    flat = torch.tensor([token for cell in cells for token in cell], device=ids.device)
    owner = torch.arange(len(cells), device=ids.device).repeat_interleave(counts)
    told: Tensor = embedding(flat)
    sums = told.new_zeros(len(cells), told.shape[-1]).index_add(0, owner, told) / counts.sqrt()[:, None]
    if noise is not None:
        drawn = torch.randn(sums.shape, generator=noise, device=sums.device)
        sums = sums + _NOISE * sums.detach().std() * drawn
    return words.index_copy(0, (ids == image_token).nonzero()[:, 0], sums.to(words.dtype))
