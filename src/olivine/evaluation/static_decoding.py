"""Greedy tokens on a GPU: shapes that do not change, no wait for a token, and CUDA graphs for shapes that come again.

A GPU that is asked after every token whether to resume stands idle while the answer travels and the next token's
thousand operations are sent one by one. Here a token's choice, its place and its end are all computed on the device.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from olivine.evaluation.decoding import Prompts
from olivine.model.decoding_attention import FixedKeys, decoding
from olivine.model.vlm import VisionLanguageModel

#: Tokens between two looks at whether all are finished; each look is answered a token later, so that nothing waits.
CHECK_EVERY = 4
_log = logging.getLogger(__name__)
#: Capacities are multiples of this many tokens, so that few shapes serve all prompts.
_CAPACITY_STEP = 64
#: Shapes kept ready with their keys' memory; the one that was used longest ago goes.
_SHAPES_KEPT = 2

#: From one token's work, which has been run before, to something that does the same when called.
Capture = Callable[[Callable[[], None]], Callable[[], None]]


class StaticDecoder:
    """Decodes batches of prompts, each shape in memory of its own.

    Args:
        vlm: the model.
        stop_ids: tokens that end an answer.
        max_new_tokens: longest answer.
        capture: makes one token's work repeatable as a whole; None runs it operation by operation.
    """

    def __init__(
        self, vlm: VisionLanguageModel, stop_ids: Sequence[int], max_new_tokens: int, capture: Capture | None
    ) -> None:
        self._vlm = vlm
        self._stop_ids = tuple(stop_ids)
        self._max_new_tokens = max_new_tokens
        self._capture = capture
        self._batches: OrderedDict[tuple[int, int], _Batch] = OrderedDict()

    def __call__(self, prompts: Prompts) -> list[list[int]]:
        """Return each prompt's tokens, without stop tokens."""
        count = len(prompts.last)
        batch, again = self._batch(prompts)
        with decoding(self._vlm.language):
            if again and self._capture is not None and batch.replay is None:
                self._make_repeatable(batch, self._capture)
            batch.begin(prompts)
            del prompts  # what is left of its cache would be memory held twice
            batch.run(self._max_new_tokens)
        return [_cut(tokens, self._stop_ids) for tokens in batch.selected[:count, : self._max_new_tokens].tolist()]

    def _batch(self, prompts: Prompts) -> "tuple[_Batch, bool]":
        """Return the memory for prompts of this shape, and whether it has been used before."""
        count, tokens = prompts.mask.shape
        capacity = -(-(tokens + self._max_new_tokens) // _CAPACITY_STEP) * _CAPACITY_STEP
        shape = (_rounded(count), capacity)
        again = shape in self._batches
        if not again:
            while len(self._batches) >= _SHAPES_KEPT:
                self._batches.popitem(last=False)
            dtype = prompts.cache.layers[0].keys.dtype
            self._batches[shape] = _Batch(self._vlm, shape, dtype, self._stop_ids, self._max_new_tokens)
        self._batches.move_to_end(shape)
        return self._batches[shape], again

    def _make_repeatable(self, batch: "_Batch", capture: Capture) -> None:
        batch.clear()
        try:
            batch.replay = capture(batch.step)
        except torch.OutOfMemoryError:
            raise  # the batch fails as any other does, and is tried in smaller ones
        except RuntimeError as error:
            self._capture = None
            first = str(error).strip().splitlines()[0]
            _log.warning(f"no CUDA graph can be made ({first}); answers come token by token.")


class _Batch:
    """Sequences of one shape that are decoded together.

    Attributes:
        chosen: `[sequences, tokens]` int64, what has been chosen so far.
        replay: one token's work as a whole, once it was captured.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        shape: tuple[int, int],
        dtype: torch.dtype,
        stop_ids: Sequence[int],
        max_new_tokens: int,
    ) -> None:
        sequences, capacity = shape
        device = vlm.device
        self._vlm = vlm
        self._keys = FixedKeys(vlm.language.config, sequences, capacity, dtype, device)
        self._stop_ids = torch.tensor([list(stop_ids)], device=device)
        self._token = torch.zeros(sequences, 1, dtype=torch.int64, device=device)
        self._position = torch.zeros_like(self._token)
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._finished = torch.zeros(sequences, dtype=torch.bool, device=device)
        # Capturing takes a few tokens of its own.
        self.selected = torch.zeros(sequences, max(max_new_tokens, WARM_UP + 1), dtype=torch.int64, device=device)
        self._flag = _LaggedFlag(device)
        self.replay: Callable[[], None] | None = None

    def clear(self) -> None:
        """Prepare for tokens that are not needed."""
        self._keys.clear()
        for state in (self._token, self._position, self._number, self._finished):
            state.zero_()

    def begin(self, prompts: Prompts) -> None:
        """Take prompts, and choose the token behind each; sequences without a prompt count as finished."""
        count = len(prompts.last)
        self.clear()
        self._keys.fill(prompts.cache, prompts.mask)
        self._position[:count, 0].copy_(prompts.lengths)
        self._finished[count:] = True
        last = prompts.last.new_zeros(len(self._token), prompts.last.shape[1])
        last[:count].copy_(prompts.last)
        self._choose(last)

    def run(self, max_new_tokens: int) -> None:
        """Choose tokens until all sequences are finished, or have as many as they may."""
        do = self.replay or self.step
        for done in range(1, max_new_tokens):
            if done > 1 and done % CHECK_EVERY == 1 and self._flag.read():
                return
            do()
            if (done + 1) % CHECK_EVERY == 0:
                self._flag.note(self._finished.all())

    def step(self) -> None:
        """One token of every sequence, finished or not, without a look at any value."""
        self._keys.show_next(self._position)
        outputs = self._vlm.language(
            inputs_embeds=self._vlm.embed(self._token, None),
            attention_mask=None,
            position_ids=self._position,
            use_cache=False,
            fixed_keys=self._keys,
        )
        self._keys.column.add_(1)
        self._position.add_(1)
        self._choose(outputs.last_hidden_state[:, -1])

    def _choose(self, last: Tensor) -> None:
        """Return the best next token from `[sequences, hidden]`."""
        self._token.copy_(self._vlm.logits(last).float().argmax(dim=-1, keepdim=True))
        self.selected.index_copy_(1, self._number, self._token)
        self._number.add_(1)
        self._finished.logical_or_((self._token == self._stop_ids).any(dim=1))


class _LaggedFlag:
    """A flag of the device, read some steps after it was noted: by then its copy has arrived and nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._host = torch.zeros((), dtype=torch.bool, pin_memory=self._on_gpu)
        self._arrived: torch.cuda.Event | None = None

    def note(self, flag: Tensor) -> None:
        self._host.copy_(flag, non_blocking=True)
        if self._on_gpu:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> bool:
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._host)


#: Tokens run before a graph is captured: libraries make their workspaces in the first.
WARM_UP = 3


def cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """Capture one token's work as a CUDA graph: one launch in place of a thousand."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _rounded(count: int) -> int:
    """Few sequences as a power of two, more as a multiple of eight: shapes come again."""
    return 1 << (count - 1).bit_length() if count <= 8 else -(-count // 8) * 8


def _cut(tokens: list[int], stop_ids: tuple[int, ...]) -> list[int]:
    end = next((position for position, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[:end]
