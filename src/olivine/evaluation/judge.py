"""The judge: a language model behind any OpenAI-compatible chat endpoint, whose readable replies are kept.

How it is reached is in `chat_endpoint`; what it is asked and what its replies mean is defined by each benchmark.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from olivine.errors import DataError, RequestError
from olivine.evaluation.chat_completion import Completion, Usage
from olivine.evaluation.chat_endpoint import ChatEndpoint, FilteredError
from olivine.files import read_json, write_json

#: The environment variable that holds the API key, if the endpoint needs one.
KEY_VARIABLE = "OLIVINE_JUDGE_KEY"
#: The budget of a judge that thinks before its verdict, where the protocol's own budget ended inside its thoughts.
_THINKING_TOKENS = 4096

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One question to the judge.

    `run` and `attempt` distinguish otherwise identical requests: a further run must not be answered from the first
    one's cache, nor a repeated request by the reply that it should replace.
    """

    prompt: str
    system: str | None = None
    temperature: float = 0.0
    max_tokens: int = 16
    run: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """The judge's reply, the name that the endpoint gives to the model, and what the reply cost when it was given."""

    text: str
    model: str
    usage: Usage = field(default=Usage(), compare=False)


@dataclass(frozen=True, slots=True)
class Verdict(Generic[_Result]):
    """What a judge's reply was read as.

    Attributes:
        value: what was read; `None` if the judge refused, or none of its replies could be read: the answer is ungraded.
        reply: the last reply, if there was one.
        reason: why there is no value.
    """

    value: _Result | None
    reply: JudgeReply | None
    reason: str | None = None


class Judge:
    """A judge model behind a chat endpoint.

    Args:
        url, model, concurrency, timeout, retries, back_off: as `ChatEndpoint`; `model` names the judge in scores.
        cache: folder of the replies, one file each, named by the hash of the request.
        key_variable: the environment variable that holds the key; unset or empty for endpoints that need none.

    Raises:
        RequestError: `url` is not an http or https address, or holds a user name or password; or the key is invalid.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: Path,
        *,
        key_variable: str = KEY_VARIABLE,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 6,
        back_off: float = 1.0,
    ) -> None:
        self.model = model
        self._cache = cache
        self._endpoint = ChatEndpoint(
            url,
            model,
            role="judge",
            key_variable=key_variable,
            kept_in=f"The replies so far are kept in {cache}",
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            back_off=back_off,
        )

    @property
    def usage(self) -> Usage:
        """What this judge has cost so far; replies from the cache cost nothing."""
        return self._endpoint.usage

    def ask(self, request: JudgeRequest) -> JudgeReply:
        """Return the reply, from the cache if the same was asked before.

        Raises:
            RunError: the endpoint refuses (wrong key, unknown model), or gave no usable reply in all tries.
            FilteredError: the judge or a content filter refused this request.
        """
        reply = self._kept(request)
        if reply is None:
            reply = self._asked(request)
            self._keep(request, reply)
        return reply

    def verdict(self, requests: Sequence[JudgeRequest], read: Callable[[str], _Result | None]) -> Verdict[_Result]:
        """Ask each request in turn until `read` understands the reply; keep that reply only.

        A refusal ends it: asking again would be refused again.

        Args:
            requests: the request and those that repeat it.
            read: returns what a reply means, or `None` if it cannot be read.

        Raises:
            RunError: as `ask`.
        """
        reply = None
        for request in requests:
            kept = self._kept(request)
            try:
                reply = kept or self._asked(request)
            except FilteredError as error:
                return Verdict(None, reply, str(error))
            value = read(reply.text)
            if value is not None:
                if kept is None:
                    self._keep(request, reply)
                return Verdict(value, reply)
        said = "nothing" if reply is None else repr(reply.text[:80])
        return Verdict(None, reply, f"the judge's replies could not be read (last: {said})")

    def check(self) -> None:
        """Ask for one word, so that a wrong address, key or model is found before anything else is done.

        Raises:
            RunError: as `ask`.
        """
        try:
            self._asked(JudgeRequest("Reply with the word: ready"))
        except FilteredError:
            return  # it is there

    def each(self, work: Callable[[_Work], _Result], items: Sequence[_Work]) -> list[_Result]:
        """Return `work(item)` for every item, run concurrently, in the order of `items`.

        `work` asks this judge. After the first error nothing more is started; replies received so far stay cached.

        Raises:
            RunError: as `ask`.
        """
        return self._endpoint.each(work, items)

    def about(self, prompt: str) -> dict[str, str]:
        """Return what scores must state about their judge: its name, its prompt's hash, which settings it refused."""
        about = {"judge": self.model, "judge_prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()}
        if "temperature" in self._endpoint.unsupported:
            about["judge_temperature"] = "the endpoint's own, since it accepts no other"
        return about

    def _asked(self, request: JudgeRequest) -> JudgeReply:
        completion = self._complete(request)
        usage = completion.usage
        if completion.cut and not completion.text:
            completion = self._complete(replace(request, max_tokens=_THINKING_TOKENS))
            usage += completion.usage
        if completion.refused is not None:
            raise FilteredError(f"the judge refused: {completion.refused[:200]}")
        return JudgeReply(completion.text, completion.model, usage)

    def _complete(self, request: JudgeRequest) -> Completion:
        system = [{"role": "system", "content": request.system}] if request.system is not None else []
        return self._endpoint.complete(
            [*system, {"role": "user", "content": request.prompt}],
            {"temperature": request.temperature, "max_tokens": request.max_tokens},
        )

    def _cache_path(self, request: JudgeRequest) -> Path:
        # Two endpoints may serve different models under one name.
        key = json.dumps([self._endpoint.url, self.model, asdict(request)], sort_keys=True, ensure_ascii=True)
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._cache / digest[:2] / f"{digest}.json"

    def _keep(self, request: JudgeRequest, reply: JudgeReply) -> None:
        write_json(self._cache_path(request), {"judge": self.model, **asdict(request), "reply": asdict(reply)})

    def _kept(self, request: JudgeRequest) -> JudgeReply | None:
        """Return a cached reply; a file that does not hold one counts as missing, since it will be rewritten."""
        path = self._cache_path(request)
        if not path.is_file():
            return None
        try:
            row = read_json(path)
        except DataError:
            return None
        reply = row.get("reply") if isinstance(row, Mapping) else None
        if not isinstance(reply, Mapping) or not isinstance(reply.get("text"), str):
            return None
        return JudgeReply(reply["text"], str(reply.get("model")))


def read_wording(path: Path) -> str:
    """Read a user's own prompt for the judge.

    Raises:
        RequestError: the file cannot be read.
        DataError: it is empty, or not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"{path}: the judge's prompt cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the judge's prompt is not UTF-8 text (byte {error.start}).") from None
    if not text.strip():
        raise DataError(f"{path}: the judge's prompt is empty. Expected the instructions for the judge.")
    return text
