"""Prompts run through the model: each image encoded once, each prefix up to the last image run once.

Writing answers behind them is in `batch`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from olivine.evaluation.decoding import Prompts, forward
from olivine.model.caching import cache_from, keys_and_values, run_by_position, run_cached
from olivine.model.vlm import VisionLanguageModel
from olivine.serving.bounded_cache import BoundedCache

#: A layer's keys and values, `[sequences, heads, tokens, head_dim]` each.
Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class PromptImage:
    """An image as the tower sees it: `[size, size, 3]` uint8, and the digest of its file."""

    digest: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's token ids, its images in order, and how many tokens end with the last of them (0 without)."""

    ids: tuple[int, ...]
    images: tuple[PromptImage, ...]
    prefix: int

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What decides the keys and values of the prefix."""
        return self.ids[: self.prefix], tuple(image.digest for image in self.images)


class Prefiller:
    """Runs prompts of one model.

    Args:
        vlm: the model, inside `by_position` if its attention is not plain.
        cache_bytes: image features and prefixes that are kept; a third and two thirds of it.
    """

    def __init__(self, vlm: VisionLanguageModel, cache_bytes: int) -> None:
        self._vlm = vlm
        self.features: BoundedCache[Tensor] = BoundedCache(cache_bytes // 3)
        self.prefixes: BoundedCache[Layers] = BoundedCache(cache_bytes * 2 // 3)

    def run(self, prompts: Sequence[Prompt]) -> tuple[list[int], Prompts, list[int]]:
        """Run prompts.

        Returns:
            Their numbers in the order of the sequences that were run; those sequences; and for each of `prompts` how
            many of its tokens were not run because they were kept.
        """
        found: dict[int, Layers] = {}
        kept = [0] * len(prompts)
        by_prefix: dict[object, list[int]] = {}
        for number, prompt in enumerate(prompts):
            layers = self.prefixes.get(prompt.key) if prompt.prefix else None
            if layers is not None:
                found[number], kept[number] = layers, prompt.prefix
            elif prompt.prefix:
                by_prefix.setdefault(prompt.key, []).append(number)
        shared = [numbers for numbers in by_prefix.values() if len(numbers) > 1]
        if shared:
            for numbers, layers in zip(shared, self._run_prefixes([prompts[n[0]] for n in shared]), strict=True):
                for number in numbers:
                    found[number] = layers
                for number in numbers[1:]:
                    kept[number] = prompts[number].prefix
        behind = list(found)
        whole = [number for number in range(len(prompts)) if number not in found]
        parts = []
        if whole:
            parts.append(self._run_whole([prompts[number] for number in whole]))
        if behind:
            parts.append(self._run_behind([prompts[n] for n in behind], [found[n] for n in behind]))
        return [*whole, *behind], joined(parts), kept

    def _run_prefixes(self, prompts: Sequence[Prompt]) -> list[Layers]:
        """Run prefixes of several prompts, and keep them."""
        ids, _, _ = self._padded([prompt.ids[: prompt.prefix] for prompt in prompts])
        _, layers = self._run_first(ids, prompts)
        return [self._keep(prompt, layers, row) for row, prompt in enumerate(prompts)]

    def _run_whole(self, prompts: Sequence[Prompt]) -> Prompts:
        """Run whole prompts, padded behind; keep their prefixes."""
        ids, mask, lengths = self._padded([prompt.ids for prompt in prompts])
        hidden, layers = self._run_first(ids, prompts)
        for row, prompt in enumerate(prompts):
            if prompt.prefix:
                self._keep(prompt, layers, row)
        return Prompts(_at(hidden, lengths - 1), cache_from(layers), mask, lengths)

    def _run_first(self, ids: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Layers]:
        embedded = self._vlm.embed(ids, self._features(prompts))
        if self._vlm.traits.plain:
            hidden, cache = run_cached(self._vlm.language, embedded)
        else:
            positions = torch.arange(ids.shape[1], device=ids.device)[None].expand_as(ids)
            # Padding is behind, where no real token looks.
            hidden, cache = run_by_position(self._vlm.language, embedded, torch.ones_like(ids), positions)
        return hidden, keys_and_values(cache)

    def _run_behind(self, prompts: Sequence[Prompt], prefixes: Sequence[Layers]) -> Prompts:
        """Run what follows prefixes that have been run."""
        lengths = torch.tensor([prompt.prefix for prompt in prompts], device=self._vlm.device)
        longest = max(prompt.prefix for prompt in prompts)
        layers = [
            (
                torch.cat([_widened(prefix[layer][0], longest) for prefix in prefixes]),
                torch.cat([_widened(prefix[layer][1], longest) for prefix in prefixes]),
            )
            for layer in range(len(prefixes[0]))
        ]
        ids, behind, counts = self._padded([prompt.ids[prompt.prefix :] for prompt in prompts])
        column = torch.arange(longest, device=ids.device)
        mask = torch.cat([(column[None] < lengths[:, None]).long(), behind], dim=1)
        positions = lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)[None]
        cache = cache_from(layers)
        hidden = forward(self._vlm, ids, mask, positions, cache)
        return Prompts(_at(hidden, counts - 1), cache, mask, lengths + counts)

    def _features(self, prompts: Sequence[Prompt]) -> Tensor | None:
        """`[images, patches, hidden]` in the order of placeholders; those not kept are encoded together."""
        order = [image for prompt in prompts for image in prompt.images]
        if not order:
            return None
        known = {image.digest: self.features.get(image.digest) for image in order}
        missing = {image.digest: image.pixels for image in order if known[image.digest] is None}
        if missing:
            pixels = torch.from_numpy(np.stack(list(missing.values())))
            made = self._vlm.project(self._vlm.patch_features(pixels))
            for digest, features in zip(missing, made, strict=True):
                own = features.clone() if len(missing) > 1 else features
                known[digest] = own
                self.features.put(digest, own, own.nbytes)
        return torch.stack([features for image in order if (features := known[image.digest]) is not None])

    def _keep(self, prompt: Prompt, layers: Layers, row: int) -> Layers:
        # Clones: a view would keep the whole batch's memory.
        own = [
            (keys[row : row + 1, :, : prompt.prefix].clone(), values[row : row + 1, :, : prompt.prefix].clone())
            for keys, values in layers
        ]
        self.prefixes.put(prompt.key, own, sum(keys.nbytes + values.nbytes for keys, values in own))
        return own

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows as `[rows, longest]`, padded behind with token 0; the mask of what is no padding; their lengths."""
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask = (torch.arange(longest)[None] < lengths[:, None]).long()
        device = self._vlm.device
        return ids.to(device), mask.to(device), lengths.to(device)


def joined(parts: Sequence[Prompts]) -> Prompts:
    """Return the sequences of several parts as one, without columns in which none has a token."""
    if len(parts) == 1:
        return parts[0]
    longest = max(int(part.lengths.max()) for part in parts)
    compact = [_compact(part, longest) for part in parts]
    layers = [
        (torch.cat([of[layer][0] for of in compact]), torch.cat([of[layer][1] for of in compact]))
        for layer in range(len(compact[0]))
    ]
    lengths = torch.cat([part.lengths for part in parts])
    mask = (torch.arange(longest, device=lengths.device)[None] < lengths[:, None]).long()
    return Prompts(torch.cat([part.last for part in parts]), cache_from(layers), mask, lengths)


def _compact(part: Prompts, longest: int) -> Layers:
    """Return keys and values with every sequence's own tokens first, in `longest` columns."""
    order = torch.sort((part.mask == 0).to(torch.int8), dim=1, stable=True).indices[:, :longest]
    made = []
    for keys, values in keys_and_values(part.cache):
        index = order[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        made.append((_widened(keys.gather(2, index), longest), _widened(values.gather(2, index), longest)))
    return made


def _widened(states: Tensor, tokens: int) -> Tensor:
    """`[sequences, heads, fewer tokens, head_dim]` with zeros behind, `tokens` in all."""
    missing = tokens - states.shape[2]
    return torch.nn.functional.pad(states, (0, 0, 0, missing)) if missing else states


def _at(hidden: Tensor, token_positions: Tensor) -> Tensor:
    """`[sequences, tokens, hidden]` at one position of each: `[sequences, hidden]`."""
    return hidden[torch.arange(len(hidden), device=hidden.device), token_positions]
