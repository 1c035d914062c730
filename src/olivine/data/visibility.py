"""Who attends to whom in a packed sequence: groups for padded kernels, spans for kernels without padding.

The rest of a packed sequence is in `packing`; the attention itself in `model/attention.py`. All in numpy: this runs
concurrently with the training step, and torch would start a second set of threads for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from olivine.data.encoding import Example

#: Blocks share one attention call if the smaller is at least this fraction of the largest: padding wastes little.
_GROUP_RATIO = 0.75
#: Continuations of short prefixes make blocks of at least this many queries: smaller calls are no cheaper.
_SHORTEST_BLOCK = 32


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Blocks of queries of similar size that attend in one call.

    An example of one part is one block. With continuations, the shared part is a block, and every few continuations are
    one, with the shared part among its keys: the cost grows with the number of continuations, not with its square.

    Attributes:
        queries: `[blocks, most queries]` int64, positions in the sequence; 0 beyond a block's end.
        keys: `[blocks, most keys]` int64, as above.
        mask: `[blocks, 1, most queries, most keys]` bool, True where a query may see a key; None if the keys are the
            queries and plain causal attention does the same.
        kept: `[real queries]` int64, which of all `blocks * most queries` are not beyond a block's end.
        token_positions: `[real queries]` int64, their positions in the sequence.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    kept: Tensor
    token_positions: Tensor


@dataclass(frozen=True, slots=True)
class Spans:
    """The same visibility for kernels that take sequences of different lengths without padding.

    Each part of each example is a query span, in sequence order; its keys are its example's shared part and itself,
    with a causal mask aligned at the last query and key.

    Attributes:
        queries, keys: `[spans + 1]` int32, where each span begins and the last ends, among queries and gathered keys.
        gather: `[keys]` int64, the keys' positions in the sequence; None if they are the sequence itself.
        longest_query, longest_key: the longest of any span.
    """

    queries: Tensor
    keys: Tensor
    gather: Tensor | None
    longest_query: int
    longest_key: int


@dataclass(frozen=True, slots=True)
class _Block:
    """Adjacent queries in a packed sequence, by part, and the shared positions that all see besides their own past."""

    start: int
    parts: tuple[int, ...]
    shared: NDArray[np.int64]

    @property
    def queries(self) -> int:
        return sum(self.parts)

    @property
    def keys(self) -> int:
        return len(self.shared) + self.queries

    @property
    def causal(self) -> bool:
        return not len(self.shared)


def groups_of(examples: Sequence[Example], starts: Sequence[int]) -> tuple[AttentionGroup, ...]:
    """Return the groups of a packed sequence: every position is a query in exactly one block.

    `starts` are the examples' first positions in the sequence.
    """
    blocks = [block for example, start in zip(examples, starts, strict=True) for block in _blocks(example, start)]
    groups: list[list[_Block]] = []
    for block in sorted(blocks, key=lambda block: (block.causal, -block.keys, -block.queries, block.start)):
        largest = groups[-1][0] if groups else None
        if (
            largest is not None
            and block.causal == largest.causal
            and block.keys >= _GROUP_RATIO * largest.keys
            and block.queries >= _GROUP_RATIO * largest.queries
        ):
            groups[-1].append(block)
        else:
            groups.append([block])
    return tuple(_group(group) for group in groups)


def _blocks(example: Example, start: int) -> Iterator[_Block]:
    """Yield the shared part, then blocks of continuations in order, each about as long as the shared part.

    Shorter blocks would gather the shared keys too often for their queries; longer ones would compute scores between
    continuations that do not see each other.
    """
    shared, *continuations = (len(part) for part in example.parts)
    yield _Block(start, (shared,), np.arange(0))
    capacity = max(shared, _SHORTEST_BLOCK)
    begin, lengths = start + shared, list[int]()
    for length in continuations:
        if lengths and sum(lengths) + length > capacity:
            yield _Block(begin, tuple(lengths), np.arange(start, start + shared))
            begin, lengths = begin + sum(lengths), []
        lengths.append(length)
    if lengths:
        yield _Block(begin, tuple(lengths), np.arange(start, start + shared))


def _group(blocks: Sequence[_Block]) -> AttentionGroup:
    most_queries, most_keys = (max(sizes) for sizes in zip(*((b.queries, b.keys) for b in blocks), strict=True))
    queries = np.zeros((len(blocks), most_queries), dtype=np.int64)
    keys = np.zeros((len(blocks), most_keys), dtype=np.int64)
    real = np.zeros((len(blocks), most_queries), dtype=bool)
    for number, block in enumerate(blocks):
        token_positions = np.arange(block.start, block.start + block.queries)
        queries[number, : block.queries], real[number, : block.queries] = token_positions, True
        keys[number, : block.keys] = np.concatenate([block.shared, token_positions])
    mask = None if blocks[0].causal else _mask(blocks, most_queries, most_keys)
    kept = torch.from_numpy(np.flatnonzero(real))
    return AttentionGroup(
        torch.from_numpy(queries), torch.from_numpy(keys), mask, kept, torch.from_numpy(queries[real])
    )


def _mask(blocks: Sequence[_Block], most_queries: int, most_keys: int) -> Tensor:
    mask = np.zeros((len(blocks), 1, most_queries, most_keys), dtype=bool)
    # Beyond a block's end a query sees the first key: one that sees nothing would give NaN.
    mask[..., 0] = True
    for number, block in enumerate(blocks):
        own, shared = block.queries, len(block.shared)
        part = np.repeat(np.arange(len(block.parts)), block.parts)
        mask[number, 0, :own, :shared] = True
        mask[number, 0, :own, shared : block.keys] = np.tril(part[:, None] == part[None, :])
    return torch.from_numpy(mask)


def spans_of(examples: Sequence[Example], starts: Sequence[int], *, gather_always: bool = False) -> Spans:
    """Return the spans of a packed sequence; `starts` are the examples' first positions in it.

    With `gather_always` the keys are gathered even if they are the sequence itself: a compiled block then sees only one
    kind of sequence.
    """
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
    plain = not gather_always and all(len(example.parts) == 1 for example in examples)
    return Spans(
        queries=torch.from_numpy(np.cumsum([0, *queries], dtype=np.int32)),
        keys=torch.from_numpy(np.cumsum([0, *keys], dtype=np.int32)),
        gather=None if plain else torch.from_numpy(np.concatenate(gather)),
        longest_query=max(queries),
        longest_key=max(keys),
    )
