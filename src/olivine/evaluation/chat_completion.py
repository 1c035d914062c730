"""What a chat endpoint returned: the text, why it ended, what it cost; and why there may be no text.

How it is asked is in `chat_endpoint`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Thoughts that a model writes before its answer; without an end, the budget ended inside them.
_THOUGHTS = re.compile(r"<(think|thinking|thought)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money, as the endpoint counts them.

    Attributes:
        requests: answered requests.
        prompt_tokens, completion_tokens: as reported; 0 where the endpoint reports none.
        cost: in the endpoint's currency, where it reports one.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def __add__(self, other: "Usage") -> "Usage":
        known = [usage.cost for usage in (self, other) if usage.cost is not None]
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(known) if known else None,
        )

    def __str__(self) -> str:
        tokens = f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out"
        cost = "" if self.cost is None else f", cost {self.cost:.4f}"
        return f"{self.requests:,} requests, {tokens}{cost}"


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply.

    Attributes:
        text: what was said, without thoughts; empty if the budget ended before anything was said.
        model: the endpoint's name for the model.
        cut: whether the budget of tokens ended it.
        refused: why the model or a content filter refused; `None` if it did not.
        usage: what it cost.
    """

    text: str
    model: str
    cut: bool
    refused: str | None
    usage: Usage


def read_completion(content: bytes, model: str) -> Completion | None:
    """Return a chat completion; `None` if `content` is something else, or holds neither text nor a reason for none."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        text, finish = message.get("content"), choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    refused = message.get("refusal") or ("content filter" if finish == "content_filter" else None)
    if not (text is None or isinstance(text, str)) or (text is None and refused is None and finish != "length"):
        return None
    said = _THOUGHTS.sub("", text or "").strip() if "<t" in (text or "").lower() else text or ""
    named = str(body.get("model") or model)
    return Completion(said, named, finish == "length", None if refused is None else str(refused), _usage(body))


def filtered(status: int, text: str) -> bool:
    """Whether an unsuccessful response says that a content filter refused this one request."""
    if status not in (400, 403, 422):
        return False
    error = _error(text)
    code = str(error.get("code") or "") + str(error.get("type") or "")
    return "content_filter" in code or "content_policy" in code or "content management policy" in text


def unsupported_setting(status: int, text: str, sent: Mapping[str, Any]) -> str | None:
    """Return the setting that an endpoint does not accept, `max_tokens` or `temperature`, if it was sent one."""
    if status not in (400, 422):
        return None
    named = str(_error(text).get("param") or "")
    for setting in ("max_tokens", "temperature"):
        if setting in sent and (named == setting or (not named and re.search(rf"nsupported[^.]*'{setting}'", text))):
            return setting
    return None


def _error(text: str) -> Mapping[str, Any]:
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, Mapping) else {}


def _usage(body: Mapping[str, Any]) -> Usage:
    usage = body.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}

    def number(key: str) -> int:
        value = counts.get(key)
        return value if isinstance(value, int) and value >= 0 else 0

    cost = counts.get("cost")
    known = float(cost) if isinstance(cost, int | float) and cost >= 0 else None
    return Usage(1, number("prompt_tokens"), number("completion_tokens"), known)
