"""A model behind an OpenAI-compatible chat endpoint: sent in parallel, with retries and deadlines.

What is asked, and what replies mean, is the caller's: a judge's in `judge`.
"""

import asyncio
import hashlib
import json
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

from olivine.errors import OlivineError, RunError
from olivine.evaluation.chat_completion import Completion, Usage, filtered, read_completion, unsupported_setting
from olivine.evaluation.endpoint_address import chat_address, key_from, open_client

if TYPE_CHECKING:
    import httpx2

#: A longer reply is not a chat completion.
_MOST_BYTES = 1 << 22
_LONGEST_PAUSE = 60.0
#: Transient HTTP status codes, in addition to all of 5xx.
_TRANSIENT = frozenset({408, 409, 425, 429})

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")


class ChatEndpoint:
    """A chat endpoint and one of its models.

    The API key comes only from the environment and appears in no message, file, log or reply. It is sent as
    `Authorization: Bearer` and, as Azure's endpoints expect it, as `api-key`. Redirects are not followed, since they
    would carry it elsewhere. Requests run in the event loop of a thread of this object's own, since only there can a
    deadline end a reply that never stops arriving.

    Args:
        url: `http(s)://HOST/v1` or similar; `/chat/completions` is added if it is missing.
        model: the endpoint's name for the model.
        role: what messages call it.
        key_variable: the environment variable that holds the key; unset or empty for endpoints that need none.
        kept_in: what messages say of replies received so far.
        concurrency: maximum number of concurrent requests.
        timeout: seconds for a try from its start to the end of its reply, after which it is given up.
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
        *,
        role: str,
        key_variable: str,
        kept_in: str,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 6,
        back_off: float = 1.0,
    ) -> None:
        self.model = model
        self.url = chat_address(url, role, key_variable)
        #: Settings that the endpoint refused, and that it is therefore no longer sent.
        self.unsupported: frozenset[str] = frozenset()
        self.usage = Usage()
        self._role = role
        self._key_variable = key_variable
        self._key = key_from(key_variable)
        self._kept_in = kept_in
        self._concurrency = concurrency
        self._timeout = timeout
        self._retries = retries
        self._back_off = back_off
        self._client = open_client(role, timeout, concurrency)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def complete(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Completion:
        """Return the reply to a conversation.

        Args:
            messages: as the chat completions interface has them.
            settings: further fields of the request, such as `temperature` and `max_tokens`; one of these two that the
                endpoint does not support is replaced (`max_completion_tokens`) or omitted, and named in `unsupported`.

        Raises:
            RunError: the endpoint refuses (wrong key, unknown model), or gave no usable reply in all tries.
        """
        sent = {"model": self.model, "messages": list(messages), **settings}
        last: _TransientError | None = None
        for tries in range(1, self._retries + 2):
            try:
                completion = self._post_supported(sent)
            except _TransientError as error:
                last = error
            else:
                with self._lock:
                    self.usage += completion.usage
                return completion
            if tries <= self._retries:
                self._pause(tries, last, sent)
        raise RunError(
            f"{self._role} {self.model} at {self.url}: no usable reply in {self._retries + 1} tries (last: {last}). "
            f"Is it running? {self._kept_in}; run again to resume."
        )

    def each(self, work: Callable[[_Work], _Result], items: Sequence[_Work]) -> list[_Result]:
        """Return `work(item)` for every item, run concurrently, in the order of `items`.

        After the first error nothing more is started.

        Raises:
            RunError: as `complete`.
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

    def _pause(self, tries: int, error: "_TransientError", sent: Mapping[str, Any]) -> None:
        # Requests that were refused together must not be retried together.
        digest = hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).digest()
        jitter = 1 + digest[0] / 256
        seconds = min(_LONGEST_PAUSE, max(self._back_off * 2 ** (tries - 1) * jitter, error.retry_after))
        if self._stopping.wait(seconds):
            raise RunError(f"{self._role} {self.model}: stopped because another question failed.")

    def _post_supported(self, sent: dict[str, Any]) -> Completion:
        while True:
            body = _without(sent, self.unsupported)
            try:
                return self._run(body)
            except _UnsupportedError as error:
                self.unsupported |= {error.setting}

    def _run(self, body: Mapping[str, Any]) -> Completion:
        return asyncio.run_coroutine_threadsafe(self._post(body), self._running_loop()).result()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(self._loop, self._client), name=self._role, daemon=True)
                thread.start()
                weakref.finalize(self, _end, self._loop, thread)
            return self._loop

    async def _post(self, body: Mapping[str, Any]) -> Completion:
        import httpx2

        # Decompressed bytes could be a thousand times those received, so uncompressed replies are requested.
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers |= {"Authorization": f"Bearer {self._key}", "api-key": self._key}
        content = json.dumps(body).encode()
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream("POST", self.url, content=content, headers=headers) as response,
            ):
                received = await _read(response, _MOST_BYTES + 1)
        except TimeoutError:
            raise _TransientError(f"the reply was incomplete after {self._timeout:g} seconds") from None
        except httpx2.HTTPError as error:
            raise _TransientError(self._excerpt(f"{type(error).__name__} {error}")) from None
        if not response.is_success:
            raise self._refusal(response, received[:2000].decode(errors="replace"), body)
        return self._completion(received)

    def _completion(self, received: bytes) -> Completion:
        shown = self._without_key(received[:_MOST_BYTES].decode(errors="replace"))
        completion = read_completion(shown.encode(), self.model) if len(received) <= _MOST_BYTES else None
        if completion is None:
            raise _TransientError(f"not a chat completion: {self._excerpt(shown[:400])!r}")
        return completion

    def _refusal(self, response: "httpx2.Response", text: str, body: Mapping[str, Any]) -> Exception:
        """Return the exception for an unsuccessful response: a transient error, or one that the user must fix."""
        status = response.status_code
        reason = f"HTTP {status}: {self._excerpt(text or response.reason_phrase)}"
        if status in _TRANSIENT or status >= 500:
            return _TransientError(reason, _retry_after(response.headers.get("Retry-After", "")))
        setting = unsupported_setting(status, text, body)
        if setting is not None:
            return _UnsupportedError(setting)
        if filtered(status, text):
            return FilteredError(reason)
        return RunError(
            f"{self._role} {self.model} at {self.url} refused: {reason}. Check the URL, the model's name, and the key "
            f"in the environment variable {self._key_variable}."
        )

    def _excerpt(self, text: str) -> str:
        return " ".join(self._without_key(text).split())[:200]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class FilteredError(OlivineError):
    """The endpoint's content filter refused one request; others may pass."""


class _TransientError(Exception):
    """A try failed for a transient reason; `retry_after` is the endpoint's requested delay, in seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _UnsupportedError(Exception):
    """The endpoint does not know a setting."""

    def __init__(self, setting: str) -> None:
        super().__init__(setting)
        self.setting = setting


def _without(sent: Mapping[str, Any], unsupported: frozenset[str]) -> dict[str, Any]:
    body = {key: value for key, value in sent.items() if key not in unsupported}
    if "max_tokens" in unsupported and "max_tokens" in sent:
        body["max_completion_tokens"] = sent["max_tokens"]
    return body


async def _read(response: "httpx2.Response", most: int) -> bytes:
    content = b""
    async for piece in response.aiter_raw():
        content += piece
        if len(content) >= most:
            break
    return content[:most]


def _run(loop: asyncio.AbstractEventLoop, client: "httpx2.AsyncClient") -> None:
    loop.run_forever()
    loop.run_until_complete(_finish(client))
    loop.close()


async def _finish(client: "httpx2.AsyncClient") -> None:
    unfinished = asyncio.all_tasks() - {asyncio.current_task()}
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    await client.aclose()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if threading.current_thread() is not thread:  # the garbage collector may run in it
        thread.join()


def _retry_after(value: str) -> float:
    """Return the seconds of a Retry-After header; a date is ignored."""
    return float(value) if value.isdecimal() and len(value) < 10 else 0.0
