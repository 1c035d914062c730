"""The server's routes: models, chat completions, health, metrics, the page.

Reading a request is in `chat_request`, running it in `worker`; the socket is in `server` and `connections`.
"""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from olivine import __version__
from olivine.errors import nearest_name
from olivine.serving import responses
from olivine.serving.chat_request import ChatRequest, parse
from olivine.serving.conversation import read_messages
from olivine.serving.image_urls import image_content
from olivine.serving.limits import Limits
from olivine.serving.metrics import CONTENT_TYPE, Metrics
from olivine.serving.prefill import Prompt
from olivine.serving.problems import ApiError, invalid, quoted
from olivine.serving.progress import Finished, Progress, Wrote
from olivine.serving.sequence import Sampling
from olivine.serving.served_model import ServedModel
from olivine.serving.worker import Generation, Worker, queue_full, too_late

#: Threads that read requests: JSON, images, tokens.
_READERS = 2
#: Bytes of all bodies that are held at once, in units of the largest one.
_BODIES_HELD = 8
_PAGE_FILES = {"": "index.html", "page.css": "page.css", "page.js": "page.js"}
_MEDIA = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
#: The page loads nothing from anywhere else, and nothing that it shows can run.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server.

    Attributes:
        token: what requests must bring as `Authorization: Bearer`; None for anybody.
        hosts: what their Host header must name; None for anything. A page of another site that a browser was made to
            find at this address has its own name there.
    """

    token: str | None = None
    hosts: frozenset[str] | None = None


def make_app(models: Sequence[ServedModel], limits: Limits, access: Access) -> FastAPI:
    """Return the server's application; it starts its worker with the first event loop that runs it."""
    service = _Service(list(models), limits)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _not_found)

    app.add_middleware(_Guard, access=access)

    @app.get("/health")
    async def health() -> Response:
        alive = service.worker.alive
        return _json({"status": "ok" if alive else "the worker has ended"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def listed() -> Response:
        return _json({"object": "list", "data": [_model_object(model) for model in models]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        return _json(_model_object(service.find(name)))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await service.answer(request)

    @app.get("/{name}")
    async def page(name: str) -> Response:
        if name not in _PAGE_FILES:
            raise HTTPException(404)
        return _page_file(_PAGE_FILES[name])

    @app.get("/")
    async def index() -> Response:
        return _page_file("index.html")

    return app


class _Guard:
    """Lets in who may use the server, before anything of a request is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http":
            try:
                _require_access(Request(scope), self._access)
            except ApiError as error:
                await _response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Service:
    """What the routes share."""

    def __init__(self, models: list[ServedModel], limits: Limits) -> None:
        self._models = {model.name: model for model in models}
        self._limits = limits
        self.metrics = Metrics(models)
        self.worker = Worker(models, queue=limits.queue, on_batch=self.metrics.batch.observe)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="olivine-request")
        self._reading = 0
        self._body_bytes = 0
        self.metrics.watch("olivine_waiting_requests", "Requests without a place yet.", lambda: self.worker.waiting)
        self.metrics.watch("olivine_running_answers", "Answers being written.", lambda: self.worker.running)

    def close(self) -> None:
        """Finish what was accepted."""
        self.worker.close()
        self._readers.shutdown(cancel_futures=True)

    def find(self, name: str) -> ServedModel:
        """Return a model by its name.

        Raises:
            ApiError: there is none (404).
        """
        if name not in self._models:
            near = nearest_name(name[:200], self._models)
            hint = f" Did you mean {near!r}?" if near else ""
            valid = ", ".join(self._models)
            raise ApiError(
                404, "model_not_found", f"no model {quoted(name)} here.{hint} Valid: {valid}.", param="model"
            )
        return self._models[name]

    async def answer(self, request: Request) -> Response:
        """Answer one chat completion request, and count it."""
        began = time.monotonic()
        status = 500
        try:
            response = await self._answer(request, began + self._limits.seconds)
            status = response.status_code
        except ApiError as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            status = 499
            raise
        finally:
            self.metrics.requests.labels(str(status)).inc()
            self.metrics.seconds.observe(time.monotonic() - began)
        return response

    async def _answer(self, request: Request, deadline: float) -> Response:
        _require_json(request)
        if self._reading >= self._limits.queue:
            raise queue_full(self._limits.queue)
        self._reading += 1
        try:
            body = await self._body(request)
            try:
                loop = asyncio.get_running_loop()
                asked, model, prompt = await loop.run_in_executor(self._readers, self._read, body)
            finally:
                self._body_bytes -= len(body)
                del body
        finally:
            self._reading -= 1
        sampling = self._sampling(asked, model, len(prompt.ids))
        choices = asked.n or 1
        progress = Progress(asyncio.get_running_loop(), choices, streaming=bool(asked.stream))
        generation = Generation(model, prompt, sampling, choices, deadline, progress)
        heading = responses.Heading(model.name)
        self.worker.submit(generation)
        watcher = asyncio.create_task(self._cancel_when_gone(request, generation, progress))
        if asked.stream:
            with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
            chunks = self._stream(heading, generation, progress, watcher, with_usage=with_usage)
            return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        try:
            event = await _next(progress, deadline)
        finally:
            generation.cancelled = True
            watcher.cancel()
        if isinstance(event, ApiError):
            raise event
        self._count(generation)
        return _json(responses.completion(heading, generation))

    def _read(self, body: bytes) -> tuple[ChatRequest, ServedModel, Prompt]:
        """Return what a body asks for; in a thread, since images and tokens take time."""
        asked = parse(body)
        model = self.find(asked.model)
        dialogue = read_messages(asked.messages)
        if len(dialogue.images) > self._limits.images:
            raise ApiError(
                422,
                "too_many_images",
                f"messages: {len(dialogue.images)} images; at most {self._limits.images} are accepted.",
                param="messages",
            )
        images = [
            model.image(image_content(image.url, self._limits, image.where), image.where) for image in dialogue.images
        ]
        return asked, model, model.prompt(dialogue.turns, images, in_front=dialogue.in_front)

    def _sampling(self, asked: ChatRequest, model: ServedModel, prompt: int) -> Sampling:
        limits = self._limits
        if (asked.n or 1) > limits.choices:
            raise invalid(f"n: at most {limits.choices} on this server.", "n")
        longest, room = asked.longest, model.context - prompt
        if longest is not None and longest > min(limits.new_tokens, room):
            param = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
            raise invalid(
                f"{param}: {longest:,} is more than the {limits.new_tokens:,} that this server gives, or than the "
                f"{room:,} that the model's context of {model.context:,} leaves behind this prompt.",
                param,
            )
        return Sampling(
            temperature=asked.temperature or 0.0,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=asked.seed,
            max_tokens=longest if longest is not None else min(limits.new_tokens, room),
            stops=asked.stops,
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        )

    async def _body(self, request: Request) -> bytes:
        """Return a body within the limits of size and time.

        Raises:
            ApiError: it is too large (413) or too slow (408), the client went away (400), or too many bodies are held
                (429).
        """
        most = self._limits.body_bytes
        too_large = ApiError(413, "body_too_large", f"the body has more than {most:,} bytes; send smaller images.")
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        self.metrics.disconnects.inc()
                        raise invalid("the connection was closed before the body had arrived.", code="cut_body")
                    new = message.get("body", b"")
                    body += new
                    self._body_bytes += len(new)
                    if len(body) > most:
                        raise too_large
                    if self._body_bytes > _BODIES_HELD * most:
                        raise ApiError(429, "busy", "too many large requests at once; try again.", retry_after=1)
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            self._body_bytes -= len(body)
            message_text = f"the body did not arrive within {self._limits.body_seconds:g} seconds."
            raise ApiError(408, "body_timeout", message_text) from None
        except BaseException:
            self._body_bytes -= len(body)
            raise

    async def _stream(
        self,
        heading: responses.Heading,
        generation: Generation,
        progress: Progress,
        watcher: "asyncio.Task[None]",
        *,
        with_usage: bool,
    ) -> AsyncIterator[bytes]:
        left = generation.choices
        try:
            for first in responses.opening(heading, left, with_usage=with_usage):
                yield responses.event(first)
            while left:
                event = await _next(progress, generation.deadline)
                if isinstance(event, Wrote):
                    chunk = responses.delta(heading, event.index, event.text, event.logprobs, with_usage=with_usage)
                    yield responses.event(chunk)
                elif isinstance(event, Finished):
                    left -= 1
                    yield responses.event(
                        responses.ending(heading, generation.sequences[event.index], with_usage=with_usage)
                    )
                else:
                    yield responses.event(event.body())
                    return
            self._count(generation)
            if with_usage:
                yield responses.event(responses.usage_chunk(heading, generation))
            yield b"data: [DONE]\n\n"
        finally:
            generation.cancelled = True
            watcher.cancel()

    def _count(self, generation: Generation) -> None:
        self.metrics.prompt_tokens.inc(len(generation.prompt.ids))
        self.metrics.cached_tokens.inc(generation.cached_tokens)
        self.metrics.answer_tokens.inc(sum(len(one.tokens) for one in generation.sequences))

    async def _cancel_when_gone(self, request: Request, generation: Generation, progress: Progress) -> None:
        """Free a request's place as soon as its client closes the connection."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if not generation.cancelled:
            generation.cancelled = True
            self.metrics.disconnects.inc()
            progress.failed(ApiError(499, "client_closed", "the client closed the connection."))


async def _next(progress: Progress, deadline: float) -> Wrote | Finished | ApiError:
    """Return the next event; the worker notices a deadline between two tokens, this even while it is busy."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, deadline - time.monotonic()) + 1.0):
            return await progress.events.get()
    return too_late()


def _require_access(request: Request, access: Access) -> None:
    if access.hosts is not None:
        host = request.headers.get("host", "").lower()
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if name not in access.hosts:
            raise ApiError(403, "host_not_allowed", f"this server is not {quoted(host)}; use its loopback address.")
    path = request.url.path
    is_page = path == "/" or path.removeprefix("/") in _PAGE_FILES
    if access.token is None or path == "/health" or is_page:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), access.token.encode()):
        raise ApiError(401, "invalid_api_key", "wrong or missing token: send Authorization: Bearer TOKEN.")


def _require_json(request: Request) -> None:
    """Refuse other types: a browser sends them to any server for any site, without asking it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "unsupported_media_type", "expected Content-Type: application/json.")


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": f"olivine {__version__}"}


def _page_file(name: str) -> Response:
    content = (files("olivine.serving") / "page" / name).read_bytes()
    return Response(content, media_type=_MEDIA[name.rpartition(".")[2]], headers=_PAGE_HEADERS)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError), "registered for this class"
    return _response(error)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this class"
    message = f"{request.method} {quoted(request.url.path)}: this server has no such route."
    return _response(ApiError(error.status_code, "no_such_route", message))


def _response(error: ApiError) -> Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # What is left of a body that was not read would be taken for the next request.
    if error.status in (408, 413, 415, 429):
        headers["Connection"] = "close"
    return Response(responses.encoded(error.body()), error.status, headers, "application/json")


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(responses.encoded(value), status, media_type="application/json")
