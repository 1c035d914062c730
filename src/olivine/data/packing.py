"""Packing: tokenised samples laid end to end in rows without padding, each seeing nothing but itself.

What a row is and how samples are dealt to rows; who sees whom in it is in `visibility`, pictures and the order of
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
class Row:
    """Packed samples.

    Attributes:
        ids: `[tokens]` int64, image placeholders included.
        positions: `[tokens]` int64; restart with every sample, and continuations go on from their shared prefix.
        targets: `[tokens]` int64; the token to predict from this place, `IGNORED` where there is no label.
        labelled: `[labels]` int64, the places that have one.
        groups: who attends to whom, for padded kernels, empty where none is taken; `spans` says the same for kernels
            without padding.
        shown: `[unique]` int64, the row's pictures by their index among the batch's unique pictures, each once.
        shown_order: `[pictures]` int64, which of `shown` each picture is, in the order of its placeholders.
        image_places: `[image tokens]` int64, the placeholders' places; None where `pack` was not told what they are.
        pictures: for each picture in the order of its placeholders, its index among the batch's unique pictures.
        sample_ids: the samples in this row, for audit.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    labelled: Tensor
    groups: tuple[AttentionGroup, ...]
    spans: Spans
    shown: Tensor
    shown_order: Tensor
    image_places: Tensor | None
    pictures: tuple[int, ...]
    sample_ids: tuple[str, ...]

    @property
    def labels(self) -> int:
        """How many places carry a label."""
        return len(self.labelled)

    def to(self, device: torch.device) -> "Row":
        """The same on another device, in one copy that nobody waits for."""
        given: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            given.append(tensor)
            return tensor

        self._with(note)
        sent = iter(send(given, device))
        return self._with(lambda _: next(sent))

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Row":
        """The row with every tensor replaced by what `change` makes of it, always in the same order."""

        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        groups = tuple(
            AttentionGroup(change(g.queries), change(g.keys), maybe(g.mask), change(g.kept), change(g.places))
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
            shown_order=change(self.shown_order),
            image_places=maybe(self.image_places),
        )


def deal(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit-decreasing: indices of examples for each row of at most `capacity` tokens.

    Deterministic; none is dropped or cut. One longer than `capacity` has a row to itself.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((r for r, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            rows.append([index])
            room.append(capacity - lengths[index])
        else:
            rows[place].append(index)
            room[place] -= lengths[index]
    return rows


def spread(lengths: Sequence[int], capacity: int, ranks: int) -> list[list[int]]:
    """Rows of at most `capacity` tokens (see `deal`) for `ranks` processes, row r for process r modulo `ranks`.

    Where the rows do not go round evenly, the same number of rounds is filled with more and shorter rows, the longest
    example to the emptiest row: no process waits a whole row for another. For one process this is `deal`.
    """
    rows = deal(lengths, capacity)
    wanted = -(-len(rows) // ranks) * ranks
    if len(rows) == wanted or wanted > len(lengths):
        return rows
    even: list[list[int]] = [[] for _ in range(wanted)]
    filled = [0] * wanted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        emptiest = min(range(wanted), key=lambda row: (filled[row], row))
        even[emptiest].append(index)
        filled[emptiest] += lengths[index]
    return even if max(filled) <= max(capacity, *lengths) else rows


@dataclass(frozen=True, slots=True)
class RowLayout:
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


def pack(examples: Sequence[Example], pictures: Sequence[int], layout: RowLayout = RowLayout()) -> Row:
    """Lay examples end to end.

    `pictures` has, for each example with a picture, its index among the batch's unique pictures.
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
    image_places = None
    if layout.image_token is not None:
        image_places = torch.from_numpy(np.flatnonzero(np.asarray(ids) == layout.image_token))
    shown, order = np.unique(np.asarray(pictures, np.int64), return_inverse=True)
    return Row(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        targets=torch.tensor(targets),
        labelled=torch.from_numpy(np.flatnonzero(np.asarray(targets) != IGNORED)),
        groups=() if layout.varlen else groups_of(examples, starts),
        spans=spans_of(examples, starts, gather_always=layout.varlen and layout.continuations),
        shown=torch.from_numpy(shown),
        shown_order=torch.from_numpy(order),
        image_places=image_places,
        pictures=tuple(pictures),
        sample_ids=tuple(example.sample.id for example in examples),
    )


def filler(length: int = 2, layout: RowLayout = RowLayout()) -> Row:
    """A row that teaches nothing: what a process runs while another still has a row."""
    places, none = torch.arange(length), torch.zeros(0, dtype=torch.int64)
    ends = torch.tensor([0, length], dtype=torch.int32)
    gathered = layout.varlen and layout.continuations
    return Row(
        ids=torch.zeros(length, dtype=torch.int64),
        positions=places,
        targets=torch.full((length,), IGNORED),
        labelled=none,
        groups=() if layout.varlen else (AttentionGroup(places[None], places[None], None, places, places),),
        spans=Spans(ends, ends, places if gathered else None, length, length),
        shown=none,
        shown_order=none,
        image_places=none,
        pictures=(),
        sample_ids=(),
    )
