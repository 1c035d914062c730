"""Packing: tokenised samples concatenated into sequences without padding, each attending only to itself.

What a packed sequence is and how samples are assigned to sequences; who attends to whom is in `visibility`, images and
the order of samples are in `batches`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from olivine.data.encoding import Example
from olivine.data.sending import send
from olivine.data.visibility import AttentionGroup, Spans, groups_of, spans_of
from olivine.recipe import LossWeights

#: torch's and transformers' label for "no label here".
IGNORED = -100


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """Samples packed into one sequence.

    Attributes:
        ids: `[tokens]` int64, image placeholders included.
        positions: `[tokens]` int64; they restart with every sample; continuations continue from their shared prefix.
        targets: `[tokens]` int64; the token to predict at this position, `IGNORED` where there is no label.
        label_weights: `[labels]` fp32, what each label weighs in the loss; None where all weigh the same.
        labelled: `[labels]` int64, the positions that have a label.
        groups: who attends to whom, for padded kernels; empty if none is used. `spans` says the same for kernels
            without padding.
        unique_images: `[unique]` int64, the sequence's images by index among the batch's unique images, each once.
        image_order: `[images]` int64, the index into `unique_images` of each image, in the order of placeholders.
        image_positions: `[image tokens]` int64, the positions of placeholders; None if `pack` was not given their id.
        images: for each image in the order of placeholders, its index among the batch's unique images.
        sample_ids: the samples in this sequence, for audit.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    labelled: Tensor
    label_weights: Tensor | None
    groups: tuple[AttentionGroup, ...]
    spans: Spans
    unique_images: Tensor
    image_order: Tensor
    image_positions: Tensor | None
    images: tuple[int, ...]
    sample_ids: tuple[str, ...]

    @property
    def labels(self) -> int:
        """How many positions have a label."""
        return len(self.labelled)

    def to(self, device: torch.device) -> "PackedSequence":
        """Return the same sequence on another device, in one asynchronous copy."""
        tensors: list[Tensor] = []

        def collect(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor

        self._with(collect)
        sent = iter(send(tensors, device))
        return self._with(lambda _: next(sent))

    def _with(self, change: Callable[[Tensor], Tensor]) -> "PackedSequence":
        """Return the sequence with `change` applied to every tensor, always in the same order."""

        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        groups = tuple(
            AttentionGroup(change(g.queries), change(g.keys), maybe(g.mask), change(g.kept), change(g.token_positions))
            for g in self.groups
        )
        spans = replace(
            self.spans,
            queries=change(self.spans.queries),
            keys=change(self.spans.keys),
            gather=maybe(self.spans.gather),
        )
        return replace(
            self,
            ids=change(self.ids),
            positions=change(self.positions),
            targets=change(self.targets),
            labelled=change(self.labelled),
            label_weights=maybe(self.label_weights),
            groups=groups,
            spans=spans,
            unique_images=change(self.unique_images),
            image_order=change(self.image_order),
            image_positions=maybe(self.image_positions),
        )


def balance(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the indices of examples for each packed sequence of at most `capacity` tokens, by first-fit-decreasing.

    Deterministic; no example is dropped or truncated. One longer than `capacity` has a sequence to itself.
    """
    sequences: list[list[int]] = []
    free_tokens: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        position = next((r for r, free in enumerate(free_tokens) if free >= lengths[index]), None)
        if position is None:
            sequences.append([index])
            free_tokens.append(capacity - lengths[index])
        else:
            sequences[position].append(index)
            free_tokens[position] -= lengths[index]
    return sequences


def distribute(lengths: Sequence[int], capacity: int, ranks: int) -> list[list[int]]:
    """Distribute examples over packed sequences for `ranks` processes, sequence s for process s modulo `ranks`.

    Sequences have at most `capacity` tokens (see `balance`). If their number is no multiple of `ranks`, the same number
    of rounds is filled with more and shorter sequences, the longest example to the emptiest sequence, so that no
    process waits a whole sequence for another. For one process this is `balance`.
    """
    sequences = balance(lengths, capacity)
    count = -(-len(sequences) // ranks) * ranks
    if len(sequences) == count or count > len(lengths):
        return sequences
    even: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        emptiest = min(range(count), key=lambda sequence: (filled[sequence], sequence))
        even[emptiest].append(index)
        filled[emptiest] += lengths[index]
    return even if max(filled) <= max(capacity, *lengths) else sequences


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """What packed sequences contain besides their tokens.

    Attributes:
        image_token: the placeholders' id; None leaves their positions to be searched for later.
        varlen: attention without padding is used, so that no groups are made.
        continuations: examples may have continuations. If none has, keys are the sequence itself; if any may, they are
            gathered in every sequence, so that a compiled block sees only one kind of sequence.
        loss_weights: what samples weigh in the loss; None gives labels no weights, so that each token weighs the same.
    """

    image_token: int | None = None
    varlen: bool = False
    continuations: bool = True
    loss_weights: LossWeights | None = None


def pack(
    examples: Sequence[Example], images: Sequence[int], layout: SequenceLayout = SequenceLayout()
) -> PackedSequence:
    """Concatenate examples into one packed sequence.

    `images` has, for each image of each example in order, its index among the batch's unique images.
    """
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    starts: list[int] = []
    for example in examples:
        starts.append(len(ids))
        shared = len(example.parts[0])
        for number, part in enumerate(example.parts):
            offset = shared if number else 0
            assert not (number and part.supervised[0]), "a continuation starts with the question, never with a label"
            ids += part.ids
            positions += range(offset, offset + len(part))
            following = zip(part.ids[1:], part.supervised[1:], strict=True)
            targets += [token if supervised else IGNORED for token, supervised in following]
            targets.append(IGNORED)
    image_positions = None
    if layout.image_token is not None:
        image_positions = torch.from_numpy(np.flatnonzero(np.asarray(ids) == layout.image_token))
    unique_images, order = np.unique(np.asarray(images, np.int64), return_inverse=True)
    labels = [sum(sum(part.supervised[1:]) for part in example.parts) for example in examples]
    return PackedSequence(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        targets=torch.tensor(targets),
        labelled=torch.from_numpy(np.flatnonzero(np.asarray(targets) != IGNORED)),
        label_weights=weights_of(labels, layout.loss_weights) if layout.loss_weights else None,
        groups=() if layout.varlen else groups_of(examples, starts),
        spans=spans_of(examples, starts, gather_always=layout.varlen and layout.continuations),
        unique_images=torch.from_numpy(unique_images),
        image_order=torch.from_numpy(order),
        image_positions=image_positions,
        images=tuple(images),
        sample_ids=tuple(example.sample.id for example in examples),
    )


def weights_of(labels: Sequence[int], loss_weights: LossWeights) -> Tensor:
    """Return what each label weighs, `[labels]` fp32, in samples of this many labels each; see `StageRecipe`."""
    power = {"token": 0.0, "sample": -1.0, "sqrt": -0.5}[loss_weights]
    counts = np.asarray(labels, np.float64)
    return torch.from_numpy(np.repeat(np.maximum(counts, 1.0) ** power, labels).astype(np.float32))


def padding_sequence(length: int = 2, layout: SequenceLayout = SequenceLayout()) -> PackedSequence:
    """Return a packed sequence without labels, which a process runs while another still has a real one."""
    token_positions, none = torch.arange(length), torch.zeros(0, dtype=torch.int64)
    ends = torch.tensor([0, length], dtype=torch.int32)
    gathered = layout.varlen and layout.continuations
    return PackedSequence(
        ids=torch.zeros(length, dtype=torch.int64),
        positions=token_positions,
        targets=torch.full((length,), IGNORED),
        labelled=none,
        label_weights=weights_of([], layout.loss_weights) if layout.loss_weights else None,
        groups=()
        if layout.varlen
        else (AttentionGroup(token_positions[None], token_positions[None], None, token_positions, token_positions),),
        spans=Spans(ends, ends, token_positions if gathered else None, length, length),
        unique_images=none,
        image_order=none,
        image_positions=none,
        images=(),
        sample_ids=(),
    )
