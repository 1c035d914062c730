"""What a client is sent: chat completions, whole or in chunks, in OpenAI's form.

When it is sent is decided in `app`.
"""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from olivine.serving.sequence import AnswerSequence, TokenLogprob
from olivine.serving.worker import Generation


@dataclass(frozen=True, slots=True)
class Heading:
    """What all parts of one response have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def with_object(self, name: str) -> dict[str, Any]:
        """Return the first fields of an object."""
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}


def completion(heading: Heading, generation: Generation) -> dict[str, Any]:
    """Return the whole response to a finished request."""
    choices = [
        {
            "index": one.index,
            "message": {"role": "assistant", "content": one.stream.text, "refusal": None},
            "logprobs": _logprobs(one.logprobs) if one.sampling.top_logprobs is not None else None,
            "finish_reason": one.finish,
            **_probability(one),
        }
        for one in generation.sequences
    ]
    return {**heading.with_object("chat.completion"), "choices": choices, "usage": usage(generation)}


def opening(heading: Heading, choices: int, *, with_usage: bool) -> list[dict[str, Any]]:
    """Return the first chunk of each choice of a stream."""
    return [
        _chunk(heading, index, {"role": "assistant", "content": "", "refusal": None}, with_usage=with_usage)
        for index in range(choices)
    ]


def delta(
    heading: Heading, index: int, text: str, logprobs: Sequence[TokenLogprob], *, with_usage: bool
) -> dict[str, Any]:
    """Return the chunk with new text."""
    found = _logprobs(logprobs) if logprobs else None
    return _chunk(heading, index, {"content": text}, logprobs=found, with_usage=with_usage)


def ending(heading: Heading, sequence: AnswerSequence, *, with_usage: bool) -> dict[str, Any]:
    """Return the last chunk of a choice."""
    chunk = _chunk(heading, sequence.index, {}, finish=sequence.finish, with_usage=with_usage)
    chunk["choices"][0] |= _probability(sequence)
    return chunk


def usage_chunk(heading: Heading, generation: Generation) -> dict[str, Any]:
    """Return the chunk behind all others that says how many tokens there were."""
    return {**heading.with_object("chat.completion.chunk"), "choices": [], "usage": usage(generation)}


def usage(generation: Generation) -> dict[str, Any]:
    """Return the numbers of tokens of a request."""
    prompt = len(generation.prompt.ids)
    written = sum(len(one.tokens) for one in generation.sequences)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


def event(value: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + encoded(value) + b"\n\n"


def encoded(value: dict[str, Any]) -> bytes:
    """Return JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def _chunk(
    heading: Heading,
    index: int,
    changed: dict[str, Any],
    *,
    with_usage: bool,
    logprobs: dict[str, Any] | None = None,
    finish: str | None = None,
) -> dict[str, Any]:
    choice = {"index": index, "delta": changed, "logprobs": logprobs, "finish_reason": finish}
    return {
        **heading.with_object("chat.completion.chunk"),
        "choices": [choice],
        **({"usage": None} if with_usage else {}),
    }


def _probability(sequence: AnswerSequence) -> dict[str, float]:
    """Return Olivine's own addition: the probability of the whole answer, its end included."""
    probability = sequence.probability
    return {} if probability is None else {"answer_probability": probability}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        {
            **_token(one.text, one.logprob),
            "top_logprobs": [_token(text, value) for text, value in one.top],
        }
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    # Bytes that are only a part of a character have been decoded to the replacement character.
    known = None if "\ufffd" in text else list(text.encode())
    # JSON has no infinity; OpenAI writes this number for it.
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": known}
