"""The judge: a language model behind any OpenAI-compatible chat endpoint, asked in parallel, with cached replies.

What it is asked and what its replies mean is defined by each benchmark.
"""

import hashlib
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from olivine.errors import DataError, RequestError, RunError
from olivine.files import read_json, write_json

if TYPE_CHECKING:
    import httpx2

#: The environment variable that holds the API key, if the endpoint needs one.
KEY_VARIABLE = "OLIVINE_JUDGE_KEY"

#: A longer reply is not a verdict.
_MOST_BYTES = 1 << 22
_LONGEST_PAUSE = 60.0
#: Transient HTTP status codes, in addition to all of 5xx.
_PASSING = frozenset({408, 409, 425, 429})

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
    """The judge's reply, and the name that the endpoint gives to the model."""

    text: str
    model: str


class Judge:
    """A judge model behind a chat endpoint.

    The API key comes only from the environment and appears in no message, file or log. Redirects are not followed,
    since they would carry it elsewhere.

    Args:
        url: `http(s)://HOST/v1` or similar; `/chat/completions` is added if it is missing.
        model: the endpoint's name for the model; it names the judge in scores.
        cache: folder of the replies, one file each, named by the hash of the request.
        key_variable: the environment variable that holds the key; unset or empty for endpoints that need none.
        concurrency: maximum number of concurrent requests.
        timeout: seconds without a byte from the endpoint, and seconds for a whole reply from its first byte on, after
            which a try is given up.
        retries: further tries after a timeout, a broken connection, 408, 409, 425, 429, 5xx or a response that is not a
            chat completion.
        back_off: seconds before the first retry; doubled for each later one, up to a minute, or longer if the endpoint
            sends Retry-After.

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
        self._url = _endpoint(url)
        self._cache = cache
        self._key_variable = key_variable
        self._key = _key(key_variable)
        self._concurrency = concurrency
        self._timeout = timeout
        self._retries = retries
        self._back_off = back_off
        self._client = _client(timeout, concurrency)
        weakref.finalize(self, self._client.close)
        self._stopping = threading.Event()

    def ask(self, request: JudgeRequest) -> JudgeReply:
        """Return the reply, from the cache if the same was asked before.

        Raises:
            RunError: the endpoint refuses (wrong key, unknown model), or gave no usable reply in all tries.
        """
        path = self._cache_path(request)
        reply = _cached(path)
        if reply is None:
            reply = self._ask_until_answered(request)
            write_json(path, {"judge": self.model, **asdict(request), "reply": asdict(reply)})
        return reply

    def each(self, work: Callable[[_Work], _Result], items: Sequence[_Work]) -> list[_Result]:
        """Return `work(item)` for every item, run concurrently, in the order of `items`.

        `work` asks this judge. After the first error nothing more is started; replies received so far stay cached.

        Raises:
            RunError: as `ask`.
        """
        pool = ThreadPoolExecutor(max_workers=self._concurrency)
        try:
            futures = [pool.submit(work, item) for item in items]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future in done and future.exception()]
            return [future.result() for future in failed or futures]
        except BaseException:
            self._stopping.set()  # wakes the threads that wait before a retry
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self._stopping.clear()

    def about(self, prompt: str) -> dict[str, str]:
        """Return what scores must state about their judge: its name and the hash of its prompt."""
        return {"judge": self.model, "judge_prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()}

    def _cache_path(self, request: JudgeRequest) -> Path:
        # Two endpoints may serve different models under one name.
        key = json.dumps([self._url, self.model, asdict(request)], sort_keys=True, ensure_ascii=True)
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._cache / digest[:2] / f"{digest}.json"

    def _ask_until_answered(self, request: JudgeRequest) -> JudgeReply:
        body = json.dumps(_body(self.model, request)).encode()
        for tries in range(1, self._retries + 2):
            try:
                return self._post(body)
            except _PassingError as error:
                last = error
            if tries <= self._retries:
                self._pause(tries, last, body)
        raise RunError(
            f"judge {self.model} at {self._url}: no usable reply in {self._retries + 1} tries (last: {last}). "
            f"Is it running? The replies so far are kept in {self._cache}; run again to resume."
        )

    def _pause(self, tries: int, error: "_PassingError", body: bytes) -> None:
        # Requests that were refused together must not be retried together.
        jitter = 1 + hashlib.sha256(body).digest()[0] / 256
        seconds = min(_LONGEST_PAUSE, max(self._back_off * 2 ** (tries - 1) * jitter, error.retry_after))
        if self._stopping.wait(seconds):
            raise RunError(f"judge {self.model}: stopped because another question failed.")

    def _post(self, body: bytes) -> JudgeReply:
        import httpx2

        # Decompressed bytes could be a thousand times those received, so uncompressed replies are requested.
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                if not response.is_success:
                    raise self._refusal(response)
                content = self._read(response, _MOST_BYTES + 1)
        except httpx2.HTTPError as error:
            raise _PassingError(self._excerpt(f"{type(error).__name__} {error}")) from None
        reply = _reply(content, self.model)
        if reply is None:
            raise _PassingError(f"not a chat completion: {self._excerpt(content[:400].decode(errors='replace'))!r}")
        return reply

    def _read(self, response: "httpx2.Response", most: int) -> bytes:
        """Return the first `most` bytes of a reply; give up on one that arrives too slowly."""
        content, began = b"", time.monotonic()
        for piece in response.iter_raw():
            content += piece
            if len(content) >= most:
                break
            if time.monotonic() - began > self._timeout:
                raise _PassingError(f"the reply was incomplete after {self._timeout:g} seconds")
        return content[:most]

    def _refusal(self, response: "httpx2.Response") -> Exception:
        """Return the exception for an unsuccessful response: a transient error, or one that the user must fix."""
        import httpx2

        try:
            text = self._read(response, 2000).decode(errors="replace")
        except (httpx2.HTTPError, _PassingError):
            text = ""
        status = response.status_code
        reason = f"HTTP {status}: {self._excerpt(text or response.reason_phrase)}"
        if status in _PASSING or status >= 500:
            return _PassingError(reason, _retry_after(response.headers.get("Retry-After", "")))
        return RunError(
            f"judge {self.model} at {self._url} refused: {reason}. Check the URL, the model's name, and the key in the "
            f"environment variable {self._key_variable}."
        )

    def _excerpt(self, text: str) -> str:
        plain = text.replace(self._key, "***") if self._key else text
        return " ".join(plain.split())[:200]


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


class _PassingError(Exception):
    """A try failed for a transient reason; `retry_after` is the endpoint's requested delay, in seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _client(timeout: float, connections: int) -> "httpx2.Client":
    """Return a client that follows no redirect and takes proxies from the environment.

    Raises:
        RequestError: a proxy from the environment cannot be used.
    """
    import httpx2  # here, since importing it takes longer than everything else in this module

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=connections)
    try:
        return httpx2.Client(timeout=timeout, limits=limits, follow_redirects=False)
    except (httpx2.InvalidURL, ValueError, ImportError) as error:
        # The address itself is not repeated: it may hold a password.
        raise RequestError(
            f"judge: a proxy in the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) cannot be used "
            f"({type(error).__name__}). Expected http://HOST:PORT; unset it, or name the judge's host in NO_PROXY."
        ) from None


def _endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise RequestError("judge url: not an address. Expected http://HOST/v1 or https://HOST/v1.") from None
    if parts.username or parts.password:
        raise RequestError(
            f"judge url at {parts.hostname}: a user name or password does not belong there. Put the key into the "
            f"environment variable {KEY_VARIABLE}."
        )
    if not valid:
        raise RequestError(f"judge url {url!r}: expected http://HOST/v1 or https://HOST/v1.")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    return parts._replace(path=path, fragment="").geturl()


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        # Checked here, because the HTTP library would show the key in its error message.
        raise RequestError(f"environment variable {variable}: expected a key in printable ASCII. Set it again.")
    return key


def _body(model: str, request: JudgeRequest) -> dict[str, Any]:
    system = [{"role": "system", "content": request.system}] if request.system is not None else []
    return {
        "model": model,
        "messages": [*system, {"role": "user", "content": request.prompt}],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
    }


def _reply(content: bytes, model: str) -> JudgeReply | None:
    """Return the text of a chat completion; `None` if `content` is something else."""
    if len(content) > _MOST_BYTES:
        return None
    try:
        completion = json.loads(content)
        text = completion["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return JudgeReply(text, str(completion.get("model") or model)) if isinstance(text, str) else None


def _cached(path: Path) -> JudgeReply | None:
    """Return a cached reply; a file that does not hold one counts as missing, since it will be rewritten."""
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


def _retry_after(value: str) -> float:
    """Return the seconds of a Retry-After header; a date is ignored."""
    return float(value) if value.isdecimal() and len(value) < 10 else 0.0
