"""Packing: tokenised samples laid end to end in rows without padding, each seeing nothing but itself.

What a row is and how samples are dealt to rows; who sees whom in it is in `visibility`, pictures and the order of
samples are in `batches`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from olivine.data.encoding import Example
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
        groups: who attends to whom, for padded kernels; `spans` says the same for kernels without padding.
        pictures: for each picture in the order of its placeholders, its index among the batch's unique pictures.
        sample_ids: the samples in this row, for audit.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    groups: tuple[AttentionGroup, ...]
    spans: Spans
    pictures: tuple[int, ...]
    sample_ids: tuple[str, ...]

    @property
    def labels(self) -> int:
        """How many places carry a label."""
        return int((self.targets != IGNORED).sum())

    def to(self, device: torch.device) -> "Row":
        """The same on another device."""
        return Row(
            self.ids.to(device),
            self.positions.to(device),
            self.targets.to(device),
            tuple(group.to(device) for group in self.groups),
            self.spans.to(device),
            self.pictures,
            self.sample_ids,
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


def pack(examples: Sequence[Example], pictures: Sequence[int]) -> Row:
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
    return Row(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        targets=torch.tensor(targets),
        groups=groups_of(examples, starts),
        spans=spans_of(examples, starts),
        pictures=tuple(pictures),
        sample_ids=tuple(example.sample.id for example in examples),
    )


def filler(length: int = 2) -> Row:
    """A row that teaches nothing: what a process runs while another still has a row."""
    places = torch.arange(length)
    ends = torch.tensor([0, length], dtype=torch.int32)
    return Row(
        ids=torch.zeros(length, dtype=torch.int64),
        positions=places,
        targets=torch.full((length,), IGNORED),
        groups=(AttentionGroup(places[None], places[None], None, torch.ones(1, length, dtype=torch.bool)),),
        spans=Spans(ends, ends, None, length, length),
        pictures=(),
        sample_ids=(),
    )
