"""A tower with a class token for llama.cpp's LLaVA graph, which puts that token behind the patches.

The graph (llama.cpp since 2025) appends the class token to the patches, adds position rows in that order, and then
drops the first token, as if the class token were there: the first patch is lost, and the class token passed on as
the last one. Rotated position rows mend the positions alone. Here the tower is widened so that its last two blocks move
every patch one token on; the token that is dropped is then none of the image's, and the rest are the patches in order.

How, exactly: the new channels hold the mean of the old ones, so that a norm over all of them is the old norm times a
constant. Two small codes for each token, its own and that of the token before it, lie on top of that mean. The last of
the tower's own blocks adds a large constant with both signs to two channels, after which a norm only scales. The first
added block makes the codes of full size, the second attends by them to the token before and adds its hidden state,
`CARRIED` times as large as what is there. The projector reads it divided by that.
"""

from dataclasses import replace
from itertools import combinations, islice
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olivine.conversion.gguf_file import BLOCK
from olivine.conversion.gguf_tower import Array, Block, Linear, Norm, Tower
from olivine.errors import RequestError

#: How much larger a hidden state that moved one token on is than what stood there before.
CARRIED = 2.0**15
#: Size of a code beside the hidden states, before it is made whole.
_CODE = 1e-2
#: Size of the new channels before the pre-norm: small beside the old ones, but not for the fp16 of the convolution.
_BEFORE_NORM = 2.0**-2
#: How much two channels differ from the mean, to hold it when a norm takes the mean of all channels away.
_CARRIER = 2.0**-2
#: Of the step that makes a code whole: its height, and the code's usual size in front of it. llama.cpp looks quick GELU
#: up in fp16, which has 11 bits: between 140 and 32,000 the difference of two looked-up values is the height to 1/4.
_STEP, _CODE_IN_STEPS = 128.0, 2048.0
#: How much smaller or larger than usual a code may be in front of the step.
_REACH = 14.0
#: Size of a whole code: small, so that what rounding leaves of their sum hardly moves the mean.
_WHOLE = 2.0**-4
#: How far the logit of the token before stands out from all others.
_GAP = 60.0
#: The large constant, in norms of the largest hidden state.
_LARGE = 2000.0
Exact = NDArray[np.float64]


def moved_by_one(tower: Tower, spread: Array, largest: float) -> Tower:
    """Return a tower of which llama.cpp's LLaVA graph gives every patch's hidden state, in order.

    Its features are `CARRIED` times the tower's in the first channels, and of no meaning in the others.

    Args:
        tower: with a class token, positions class token first.
        spread: `[2, tokens]`, class token first: the least and the largest standard deviation of a token's embedding
            over images, before the pre-norm.
        largest: norm of the largest hidden state.

    Raises:
        RequestError: the tower's heads are too narrow for the codes.
    """
    assert tower.class_row is not None, "without a class token nothing is out of order"
    least, most = np.roll(spread.astype(np.float64), -1, axis=1)
    if tower.pre_norm is not None and (np.sqrt(most / least) > _REACH).any():
        raise RequestError(
            f"--to gguf: the tower's embeddings vary {np.max(most / least):.0f}-fold from image to image, too "
            "much for the codes by which its tokens are put in order."
        )
    return _Widening(tower, np.sqrt(least * most), largest).tower()


class _Widening:
    """Old width D, new width W; new channels: own code, code before, two of the mean, two large, and spare ones."""

    def __init__(self, tower: Tower, spread: Exact, largest: float) -> None:
        self.old, self.spread = tower, spread
        tokens = tower.patches + 1
        self.bits = next(bits for bits in range(4, 64, 2) if comb(bits, bits // 2) >= tokens)
        self.width = _width(tower.width, tower.heads, 2 * self.bits + 4)
        self.head = self.width // tower.heads
        if self.head < self.bits:
            raise RequestError(
                f"--to gguf: heads of {self.head} channels cannot hold the order of {tokens} tokens ({self.bits})."
            )
        own = tower.width
        self.own_code = slice(own, own + self.bits)
        self.code_before = slice(own + self.bits, own + 2 * self.bits)
        self.mean_of = slice(own + 2 * self.bits, own + 2 * self.bits + 2)
        self.large = slice(own + 2 * self.bits + 2, own + 2 * self.bits + 4)
        self.constant = 2.0 ** np.ceil(np.log2(_LARGE * largest))
        #: Standard deviation over the channels once the constant is there.
        self.deviation = self.constant * np.sqrt(2 / self.width)
        self.shares = np.ones(self.width - own)
        self.shares[2 * self.bits : 2 * self.bits + 2] += (_CARRIER, -_CARRIER)

    def tower(self) -> Tower:
        old, tokens = self.old, self.old.patches + 1
        blocks = [self._block(block) for block in old.blocks]
        blocks[-1].down.bias[self.large] += (self.constant, -self.constant)
        count = len(blocks)
        embedded = self._embedded()
        return replace(
            old,
            kernel=embedded["kernel"],
            patch_bias=embedded["patch_bias"],
            class_row=embedded["class_row"],
            blocks=[*blocks, self._restore_codes(), self._move()],
            eps=old.eps * old.width / self.width,
            exact_blocks={count, count + 1},
            pre_norm=self._pre_norm(),
            positions=(np.roll(embedded["positions"], -1, axis=0) + self._codes(tokens)).astype(np.float32),
        )

    # Embeddings

    def _embedded(self) -> dict[str, Any]:
        """Return kernel, patch bias, class row and positions with the new channels; without codes."""
        old = self.old
        rows = {
            "kernel": old.kernel.reshape(old.width, -1).T,
            "class_row": old.class_row[None] if old.class_row is not None else None,
            "positions": old.positions,
            "patch_bias": old.patch_bias[None] if old.patch_bias is not None else None,
        }
        made: dict[str, Any] = {}
        for name, values in rows.items():
            if values is None:
                made[name] = None
                continue
            wide = self._rows_before_norm(values.astype(np.float64)).astype(np.float32)
            made[name] = wide if name == "positions" else wide[0]
            if name == "kernel":
                made[name] = np.ascontiguousarray(wide.T).reshape(self.width, *old.kernel.shape[1:])
        return made

    def _rows_before_norm(self, rows: Exact) -> Exact:
        """`[n, D]` to `[n, W]`: the mean in the new channels, or what the pre-norm makes the mean of its output."""
        if self.old.pre_norm is None:
            return np.concatenate([rows, rows.mean(1, keepdims=True) * self.shares], axis=1)
        centred = rows - rows.mean(1, keepdims=True)  # the norm takes the mean away in any case
        weighted = (centred * self.old.pre_norm.weight).mean(1, keepdims=True)
        return np.concatenate([centred, _BEFORE_NORM * weighted * self._signs()], axis=1)

    def _signs(self) -> Exact:
        """Of the new channels before the pre-norm: as many plus as minus, and one sign for each of the two codes."""
        signs = np.where(np.arange(self.width - self.old.width) % 2, -1.0, 1.0)
        signs[: self.bits], signs[self.bits : 2 * self.bits] = 1, -1
        return signs

    def _pre_norm(self) -> Norm | None:
        norm = self.old.pre_norm
        if norm is None:
            return None
        shrunk = np.sqrt(self.old.width / self.width)
        weight = np.concatenate([norm.weight, self._signs() * self.shares / _BEFORE_NORM]) * shrunk
        bias = np.concatenate([norm.bias, self.shares * norm.bias.astype(np.float64).mean()])
        return Norm(weight.astype(np.float32), bias.astype(np.float32))

    def _codes(self, tokens: int) -> Exact:
        """Return each token's code and that of the token before, as small as they first are: `[tokens, W]`."""
        codes = _balanced_codes(tokens, self.bits)
        made = np.zeros((tokens, self.width))
        made[:, self.own_code] = codes
        made[:, self.code_before] = np.roll(codes, 1, axis=0)
        if self.old.pre_norm is None:
            return made * _CODE * self.spread.mean()
        made[:, self.old.width :] *= self._signs()
        return made * (_CODE * _BEFORE_NORM * self.spread[:, None])

    # Blocks

    def _block(self, block: Block) -> Block:
        head = self.old.width // self.old.heads
        query = Linear(block.query.weight * np.sqrt(self.head / head), block.query.bias * np.sqrt(self.head / head))
        inner = _inner(block.up.weight.shape[0], self.width)
        return Block(
            self._norm(block.before_attention),
            self._heads(query),
            self._heads(block.key),
            self._heads(block.value),
            self._written(Linear(self._by_head(block.out.weight.T).T, block.out.bias), self.width),
            self._norm(block.before_mlp),
            Linear(
                _padded(block.up.weight, (inner, self.width)),
                _padded(block.up.bias, (inner,)),
            ),
            self._written(block.down, inner),
        )

    def _norm(self, norm: Norm) -> Norm:
        shrunk = np.sqrt(self.old.width / self.width)
        return Norm(_padded(norm.weight * shrunk, (self.width,)), _padded(norm.bias, (self.width,)))

    def _heads(self, layer: Linear) -> Linear:
        weight = _padded(layer.weight, (layer.weight.shape[0], self.width))
        return Linear(self._by_head(weight), self._by_head(layer.bias))

    def _by_head(self, rows: Array) -> Array:
        """`[D, ...]` to `[W, ...]`: every head's rows at the front of the wider head."""
        head = self.old.width // self.old.heads
        made = np.zeros((self.old.heads, self.head, *rows.shape[1:]), np.float32)
        made[:, :head] = rows.reshape(self.old.heads, head, *rows.shape[1:])
        return made.reshape(self.width, *rows.shape[1:])

    def _written(self, layer: Linear, inputs: int) -> Linear:
        """Return a layer that adds to the hidden states, with its outputs' mean for the new channels."""
        weight = layer.weight.astype(np.float64)
        mean, bias = weight.mean(0), layer.bias.astype(np.float64)
        wide = np.concatenate([weight, self.shares[:, None] * mean])
        made = np.concatenate([bias, self.shares * bias.mean()])
        return Linear(_padded(wide, (self.width, inputs)), made.astype(np.float32))

    def _restore_codes(self) -> Block:
        """Make all codes of one size, which depended on their tokens' embeddings. Attention does nothing."""
        block, inner = self._empty(), _inner(4 * self.bits, self.width)
        block.up = Linear(np.zeros((inner, self.width), np.float32), np.zeros(inner, np.float32))
        block.down = Linear(np.zeros((self.width, inner), np.float32), np.zeros(self.width, np.float32))
        size = _CODE * (self.spread.mean() if self.old.pre_norm is None else 1.0)
        for number in range(2 * self.bits):
            channel, unit = self.old.width + number, 2 * number
            block.before_mlp.weight[channel] = _CODE_IN_STEPS * self.deviation / size
            block.up.weight[unit : unit + 2, channel] = 1
            block.up.bias[unit] = _STEP
            block.down.weight[channel, unit : unit + 2] = (2 * _WHOLE / _STEP, -2 * _WHOLE / _STEP)
            block.down.bias[channel] = -_WHOLE
        return block

    def _move(self) -> Block:
        """Add the hidden state of the token before, `CARRIED` times. The MLP does nothing."""
        block, own = self._empty(), self.old.width
        weight = block.before_attention.weight
        weight[:own] = self.deviation
        weight[self.own_code] = weight[self.code_before] = self.deviation / _WHOLE
        weight[self.mean_of.start] = self.deviation / _CARRIER
        sharpness = _GAP / 4 * np.sqrt(self.head)
        for first in range(0, self.width, self.head):
            for bit in range(self.bits):
                block.query.weight[first + bit, self.code_before.start + bit] = sharpness
                block.key.weight[first + bit, self.own_code.start + bit] = 1
        np.fill_diagonal(block.value.weight, 1)
        block.out.weight[np.arange(own), np.arange(own)] = CARRIED
        block.out.weight[:own, self.mean_of.start] = CARRIED
        return block

    def _empty(self) -> Block:
        def norm() -> Norm:
            return Norm(np.zeros(self.width, np.float32), np.zeros(self.width, np.float32))

        def linear(out: int, inputs: int) -> Linear:
            return Linear(np.zeros((out, inputs), np.float32), np.zeros(out, np.float32))

        width, inner = self.width, _inner(1, self.width)
        q, k, v, out = (linear(width, width) for _ in range(4))
        return Block(norm(), q, k, v, out, norm(), linear(inner, width), linear(width, inner))


def _width(old: int, heads: int, new: int) -> int:
    """Return the smallest width with room for the new channels that heads and blocks of quantised weights divide."""
    step = int(np.lcm(heads, BLOCK))
    return -(-(old + new) // step) * step


def _inner(units: int, width: int) -> int:
    """Return an MLP's width; llama.cpp takes one that equals the hidden width for a file of an old kind."""
    inner = -(-units // BLOCK) * BLOCK
    return inner + BLOCK if inner == width else inner


def _padded(values: Array | Exact, shape: tuple[int, ...]) -> Array:
    made = np.zeros(shape, np.float32)
    made[tuple(slice(size) for size in values.shape)] = values
    return made


def _balanced_codes(count: int, bits: int) -> Exact:
    """Return `count` different codes of -1 and 1, as many of each: `[count, bits]`."""
    made = -np.ones((count, bits))
    for row, ones in enumerate(islice(combinations(range(bits), bits // 2), count)):
        made[row, list(ones)] = 1
    return made
