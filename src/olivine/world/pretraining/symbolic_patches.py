"""Symbolic patch captions: at image tokens, the summed embeddings of the words for what each patch shows.

No image is drawn: the words come from the scene's data. Questions about such scenes are in `curriculum`.
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

#: For each image token of an example, the ids of the words that are summed there.
PatchWords = tuple[tuple[int, ...], ...]
#: The share of words that are kept, so that none is relied on; how often an object's patch mentions the backdrop too.
_KEPT, _BACKDROP = 0.95, 0.3
#: Noise added to the sums in training, in their own standard deviations: a connector will only approximate words.
_NOISE = 0.3


@dataclass(frozen=True, slots=True)
class Text:
    """An example, and the words of its image tokens; empty if it has none."""

    example: Example
    patch_words: PatchWords = ()


def symbolic_patch_captions(
    scene: Scene, tokenizer: Any, rng: Random, *, places: bool = True, kept: float = _KEPT
) -> PatchWords:
    """Return one entry per patch, row by row: the ids of the words for what is there, or for backdrop and time.

    Args:
        places: whether the words include the object's place; otherwise it follows only from the token's position.
        kept: the probability of each word of an object.
    """
    patches = [[f" {scene.backdrop}", f" {scene.time}"] for _ in range(SHAPE.grid**2)]
    for obj in scene.objects:
        words = _words_of(obj, places)
        for patch in covered(obj):
            patches[patch] = [word for word in words if rng.random() < kept]
            if not patches[patch] or rng.random() < _BACKDROP:
                patches[patch].append(f" {scene.backdrop}")
    return tuple(tuple(token for word in words for token in _ids(tokenizer, word)) for words in patches)


def _words_of(obj: SceneObject, places: bool) -> list[str]:
    """Return the object's words, each with the space before it that it has inside a sentence."""
    words = [obj.class_name, obj.colour, obj.size, *(obj.place.split() if places else ())]
    if CLASSES[obj.class_name].patterned:
        words.append(obj.pattern)
    words += [word for word in (obj.state, obj.writing) if word]
    said = [f" {word}" for word in words]
    if CLASSES[obj.class_name].property == "facing":
        # Without the space, as in replies: in a sum of words, place and facing would otherwise be indistinguishable.
        said[-1] = obj.state
    return said


@lru_cache(4096)
def _ids(tokenizer: Any, word: str) -> tuple[int, ...]:
    return tuple(tokenizer(word, add_special_tokens=False).input_ids)


def embedded(
    embedding: nn.Embedding, ids: Tensor, texts: Sequence[Text], image_token: int, noise: torch.Generator | None
) -> Tensor:
    """Return `[tokens, hidden]` for the model's `inputs_embeds`: at image tokens the sums of their words' embeddings.

    A sum is divided by the root of the number of its words, so that all have about the same norm.

    Args:
        ids: `[tokens]`, the texts packed in their order.
        noise: the generator of the noise; None for none.
    """
    words: Tensor = embedding(ids)
    patches = [ids_of_patch for text in texts for ids_of_patch in text.patch_words]
    if not patches:
        return words
    counts = torch.tensor([len(patch) for patch in patches], device=ids.device)
    flat = torch.tensor([token for patch in patches for token in patch], device=ids.device)
    owner = torch.arange(len(patches), device=ids.device).repeat_interleave(counts)
    summands: Tensor = embedding(flat)
    sums = summands.new_zeros(len(patches), summands.shape[-1]).index_add(0, owner, summands) / counts.sqrt()[:, None]
    if noise is not None:
        drawn = torch.randn(sums.shape, generator=noise, device=sums.device)
        sums = sums + _NOISE * sums.detach().std() * drawn
    return words.index_copy(0, (ids == image_token).nonzero()[:, 0], sums.to(words.dtype))
