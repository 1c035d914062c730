"""One answer while it is written: how its next token is chosen, what it has said, why it ended.

Running the model for many of them at once is in `batch`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from olivine.model.vlm import VisionLanguageModel
from olivine.serving.text_stream import TextStream, token_text

#: How vocabularies with a byte for every character that they lack write such a token.
_BYTE = re.compile("<0x[0-9A-F]{2}>")
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and where an answer ends.

    Attributes:
        temperature: 0 takes the most probable token.
        top_p: only the most probable tokens that together reach this probability.
        seed: makes sampling repeatable; None draws a new one.
        max_tokens: longest answer.
        stops: texts in front of which the answer is cut.
        top_logprobs: how many alternatives are reported for each token; None reports no log-probabilities.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 128
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's text and its natural log-probability before temperature, with those of the most probable ones."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Listener(Protocol):
    """Is told of an answer's progress, from the worker's thread."""

    def wrote(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> None:
        """Take new text of answer `index` and the tokens since the last call."""

    def finished(self, index: int) -> None:
        """Take note that answer `index` is complete."""


@dataclass(slots=True, eq=False)
class AnswerSequence:
    """One answer being written.

    Attributes:
        tokens: chosen so far, the stop token not among them.
        logprobs: one for each token, if they are reported.
        end_logprob: the stop token's log-probability; None while the answer is not ended by one, or if none are
            reported.
    """

    vlm: VisionLanguageModel
    index: int
    sampling: Sampling
    stop_ids: frozenset[int]
    listener: Listener
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end_logprob: float | None = None
    finish: FinishReason | None = None
    stream: TextStream = field(init=False)
    _generator: torch.Generator | None = field(init=False, default=None)
    _sent_logprobs: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.stream = TextStream(self.vlm.decode, self.sampling.stops, self._is_byte)
        if self.sampling.temperature > 0:
            self._generator = torch.Generator()
            if self.sampling.seed is None:
                self._generator.seed()
            else:
                # Answers of one request differ from each other, each of them repeatable.
                self._generator.manual_seed((self.sampling.seed + self.index) % 2**63)

    def choose(self, logits: Tensor) -> int:
        """Return the next token from `[vocabulary]` float32, sampled (temperature is above 0)."""
        probabilities = torch.softmax(logits.double().cpu() / self.sampling.temperature, dim=0)
        if self.sampling.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            # The first token that reaches top_p still counts.
            ordered[ordered.cumsum(0) - ordered >= self.sampling.top_p] = 0
            probabilities = torch.zeros_like(probabilities).index_copy(0, order, ordered)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

    def accept(self, token: int, logits: Tensor) -> bool:
        """Take a token, and return whether the answer continues; `logits` is `[vocabulary]` float32."""
        ended, text = token in self.stop_ids, ""
        if self.sampling.top_logprobs is not None:
            self._report(token, logits, ended=ended)
        if ended:
            self.finish = "stop"
        else:
            self.tokens.append(token)
            text = self.stream.add(token)
            if self.stream.stopped:
                self.finish = "stop"
            elif len(self.tokens) >= self.sampling.max_tokens:
                self.finish = "length"
            elif text:
                self._tell(text)
        if self.finish is None:
            return True
        self._tell(text + self.stream.rest())
        self.listener.finished(self.index)
        return False

    @property
    def probability(self) -> float | None:
        """The probability of exactly these tokens and, if a stop token ended it, of that; None if not reported."""
        if self.sampling.top_logprobs is None:
            return None
        return math.exp(sum(one.logprob for one in self.logprobs) + (self.end_logprob or 0.0))

    def _tell(self, text: str) -> None:
        new = self.logprobs[self._sent_logprobs :]
        if text or new:
            self._sent_logprobs = len(self.logprobs)
            self.listener.wrote(self.index, text, new)

    def _report(self, token: int, logits: Tensor, *, ended: bool) -> None:
        logprobs = torch.log_softmax(logits, dim=0)
        own = float(logprobs[token])
        if ended:
            self.end_logprob = own
            return
        best = torch.topk(logprobs, self.sampling.top_logprobs or 0)
        alternatives = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = tuple((self._written(other), value) for other, value in alternatives)
        self.logprobs.append(TokenLogprob(self._written(token), own, top))

    def _written(self, token: int) -> str:
        return token_text(self._decode_all, self.tokens, token)

    def _is_byte(self, token: int) -> bool:
        return _BYTE.fullmatch(self.vlm.tokenizer.convert_ids_to_tokens(token) or "") is not None

    def _decode_all(self, ids: Sequence[int]) -> str:
        text: str = self.vlm.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text
