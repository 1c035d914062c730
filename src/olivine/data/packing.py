"""Packing: tokenised samples laid end to end in rows without padding, each seeing nothing but itself.

What a row is and how samples are dealt to rows; who sees whom in it is in `visibility`, images and the order of
samples are in `batches`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from olivine.data.encoding import Example
from olivine.data.sending import send
from olivine.data.visibility import AttentionGroup, Spans, groups_of, spans_of

#: torch's and transformers' label for "no label here".
IGNORED = -100


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """Packed samples.

    Attributes:
        ids: `[tokens]` int64, image placeholders included.
        positions: `[tokens]` int64; restart with every sample, and continuations go on from their shared prefix.
        targets: `[tokens]` int64; the token to predict from this place, `IGNORED` where there is no label.
        labelled: `[labels]` int64, the places that have one.
        groups: who attends to whom, for padded kernels, empty where none is taken; `spans` says the same for kernels
            without padding.
        shown: `[unique]` int64, the row's images by their index among the batch's unique images, each once.
        shown_order: `[images]` int64, which of `shown` each image is, in the order of its placeholders.
        image_places: `[image tokens]` int64, the placeholders' places; None where `pack` was not told what they are.
        images: for each image in the order of its placeholders, its index among the batch's unique images.
        sample_ids: the samples in this row, for audit.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    labelled: Tensor
    groups: tuple[AttentionGroup, ...]
    spans: Spans
    shown: Tensor
    image_order: Tensor
    image_positions: Tensor | None
    images: tuple[int, ...]
    sample_ids: tuple[str, ...]

    @property
    def labels(self) -> int:
        """How many places carry a label."""
        return len(self.labelled)

    def to(self, device: torch.device) -> "PackedSequence":
        """The same on another device, in one copy that nobody waits for."""
        given: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            given.append(tensor)
            return tensor

        self._with(note)
        sent = iter(send(given, device))
        return self._with(lambda _: next(sent))

    def _with(self, change: Callable[[Tensor], Tensor]) -> "PackedSequence":
        """The row with every tensor replaced by what `change` makes of it, always in the same order."""

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
            groups=groups,
            spans=spans,
            shown=change(self.shown),
            image_order=change(self.image_order),
            image_positions=maybe(self.image_positions),
        )


def balance(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit-decreasing: indices of examples for each row of at most `capacity` tokens.

    Deterministic; none is dropped or cut. One longer than `capacity` has a row to itself.
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
    """Rows of at most `capacity` tokens (see `deal`) for `ranks` processes, row r for process r modulo `ranks`.

    Where the rows do not go round evenly, the same number of rounds is filled with more and shorter rows, the longest
    example to the emptiest row: no process waits a whole row for another. For one process this is `deal`.
    """
    sequences = balance(lengths, capacity)
    requested = -(-len(sequences) // ranks) * ranks
    if len(sequences) == requested or requested > len(lengths):
        return sequences
    even: list[list[int]] = [[] for _ in range(requested)]
    filled = [0] * requested
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        emptiest = min(range(requested), key=lambda sequence: (filled[sequence], sequence))
        even[emptiest].append(index)
        filled[emptiest] += lengths[index]
    return even if max(filled) <= max(capacity, *lengths) else sequences


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """What rows bring besides their tokens.

    Attributes:
        image_token: the placeholders' id; None leaves their places to be looked for.
        varlen: attention without padding is taken, so that no groups are made.
        continuations: examples may have continuations. Where none does, keys are the row itself; where any may, they
            are gathered in every row, so that a compiled block meets rows of one kind.
    """

    image_token: int | None = None
    varlen: bool = False
    continuations: bool = True


def pack(
    examples: Sequence[Example], images: Sequence[int], layout: SequenceLayout = SequenceLayout()
) -> PackedSequence:
    """Lay examples end to end.

    `images` has, for each example with an image, its index among the batch's unique images.
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
            assert not (number and part.supervised[0]), "a continuation begins with the question, never with a label"
            ids += part.ids
            positions += range(offset, offset + len(part))
            following = zip(part.ids[1:], part.supervised[1:], strict=True)
            targets += [token if supervised else IGNORED for token, supervised in following]
            targets.append(IGNORED)
    image_positions = None
    if layout.image_token is not None:
        image_positions = torch.from_numpy(np.flatnonzero(np.asarray(ids) == layout.image_token))
    shown, order = np.unique(np.asarray(images, np.int64), return_inverse=True)
    return PackedSequence(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        targets=torch.tensor(targets),
        labelled=torch.from_numpy(np.flatnonzero(np.asarray(targets) != IGNORED)),
        groups=() if layout.varlen else groups_of(examples, starts),
        spans=spans_of(examples, starts, gather_always=layout.varlen and layout.continuations),
        shown=torch.from_numpy(shown),
        image_order=torch.from_numpy(order),
        image_positions=image_positions,
        images=tuple(images),
        sample_ids=tuple(example.sample.id for example in examples),
    )


def padding_sequence(length: int = 2, layout: SequenceLayout = SequenceLayout()) -> PackedSequence:
    """A row that teaches nothing: what a process runs while another still has a row."""
    token_positions, none = torch.arange(length), torch.zeros(0, dtype=torch.int64)
    ends = torch.tensor([0, length], dtype=torch.int32)
    gathered = layout.varlen and layout.continuations
    return PackedSequence(
        ids=torch.zeros(length, dtype=torch.int64),
        positions=token_positions,
        targets=torch.full((length,), IGNORED),
        labelled=none,
        groups=()
        if layout.varlen
        else (AttentionGroup(token_positions[None], token_positions[None], None, token_positions, token_positions),),
        spans=Spans(ends, ends, token_positions if gathered else None, length, length),
        shown=none,
        image_order=none,
        image_positions=none,
        images=(),
        sample_ids=(),
    )
