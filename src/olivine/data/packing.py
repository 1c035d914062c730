"""Packing: tokenised samples laid end to end in rows without padding, each seeing nothing but itself.

What a row is and how samples are dealt to rows; pictures and the order of samples are in `batches`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from olivine.data.encoding import Example

#: torch's and transformers' label for "no label here".
IGNORED = -100
#: Examples share one attention call if the shorter is at least this share of the longest: little is wasted on padding.
_GROUP_RATIO = 0.75


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Examples of similar length that attend in one call.

    Attributes:
        gather: `[examples, longest]` int64, places in the row; behind an example's end, place 0 stands in.
        mask: `[examples, 1, longest, longest]` bool, True where a query (second last) may see a key; None where
            plain causal attention says the same.
        real: `[examples, longest]` bool, False behind an example's end.
    """

    gather: Tensor
    mask: Tensor | None
    real: Tensor

    def to(self, device: torch.device) -> "AttentionGroup":
        """The same on another device."""
        mask = None if self.mask is None else self.mask.to(device)
        return AttentionGroup(self.gather.to(device), mask, self.real.to(device))


@dataclass(frozen=True, slots=True)
class Spans:
    """The same who-sees-whom for kernels that take sequences of different lengths without padding.

    Each part of each example is a query span, in the row's order; its keys are its example's shared part and itself,
    the mask causal from the last query and key backwards.

    Attributes:
        queries, keys: `[spans + 1]` int32, where each span begins and the last ends, among queries and gathered keys.
        gather: `[keys]` int64, the keys' places in the row; None where they are the row itself.
        longest_query, longest_key: of any span.
    """

    queries: Tensor
    keys: Tensor
    gather: Tensor | None
    longest_query: int
    longest_key: int

    def to(self, device: torch.device) -> "Spans":
        """The same on another device."""
        gather = None if self.gather is None else self.gather.to(device, non_blocking=True)
        queries, keys = (ends.to(device, non_blocking=True) for ends in (self.queries, self.keys))
        return Spans(queries, keys, gather, self.longest_query, self.longest_key)


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
        groups=tuple(_group(examples, starts)),
        spans=_spans(examples, starts),
        pictures=tuple(pictures),
        sample_ids=tuple(example.sample.id for example in examples),
    )


def filler(length: int = 2) -> Row:
    """A row that teaches nothing: what a process runs while another still has a row."""
    place = np.arange(length)
    ends = torch.tensor([0, length], dtype=torch.int32)
    return Row(
        ids=torch.zeros(length, dtype=torch.int64),
        positions=torch.from_numpy(place),
        targets=torch.full((length,), IGNORED),
        groups=(AttentionGroup(torch.from_numpy(place[None]), None, torch.ones(1, length, dtype=torch.bool)),),
        spans=Spans(ends, ends, None, length, length),
        pictures=(),
        sample_ids=(),
    )


def _spans(examples: Sequence[Example], starts: Sequence[int]) -> Spans:
    queries, keys, gather = [], [], []
    for example, start in zip(examples, starts, strict=True):
        shared = len(example.parts[0])
        begin = start
        for number, part in enumerate(example.parts):
            prefix = np.arange(start, start + shared) if number else np.arange(0)
            gather.append(np.concatenate([prefix, np.arange(begin, begin + len(part))]))
            queries.append(len(part))
            keys.append(len(gather[-1]))
            begin += len(part)
    plain = all(len(example.parts) == 1 for example in examples)
    return Spans(
        queries=torch.from_numpy(np.cumsum([0, *queries], dtype=np.int32)),
        keys=torch.from_numpy(np.cumsum([0, *keys], dtype=np.int32)),
        gather=None if plain else torch.from_numpy(np.concatenate(gather)),
        longest_query=max(queries),
        longest_key=max(keys),
    )


def _group(examples: Sequence[Example], starts: Sequence[int]) -> list[AttentionGroup]:
    groups: list[list[int]] = []
    for index in sorted(range(len(examples)), key=lambda i: (-examples[i].length, i)):
        longest = examples[groups[-1][0]].length if groups else 0
        if groups and examples[index].length >= _GROUP_RATIO * longest:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [_attention_group([examples[i] for i in group], [starts[i] for i in group]) for group in groups]


def _attention_group(examples: Sequence[Example], starts: Sequence[int]) -> AttentionGroup:
    # In numpy: this runs beside the training step, and torch would start a second set of threads for it.
    longest = max(example.length for example in examples)
    lengths = np.array([example.length for example in examples])
    place = np.arange(longest)
    real = place[None] < lengths[:, None]
    gather = torch.from_numpy(np.where(real, place[None] + np.array(starts)[:, None], 0))
    if all(len(example.parts) == 1 for example in examples):
        return AttentionGroup(gather, None, torch.from_numpy(real))
    # Part 0 is seen by all; -1 behind the end is seen by itself alone, since a query that sees nothing gives NaN.
    part = np.full((len(examples), longest), -1, dtype=np.int16)
    for row, example in enumerate(examples):
        part[row, : example.length] = np.repeat(
            np.arange(len(example.parts)), [len(tokens) for tokens in example.parts]
        )
    mask = (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0)
    mask &= (place[:, None] >= place[None, :])[None]
    mask &= real[:, None, :] & real[:, :, None]
    mask |= np.eye(longest, dtype=bool)[None]
    return AttentionGroup(gather, torch.from_numpy(mask[:, None]), torch.from_numpy(real))
