"""Chat completions: from a request to its response, whole or streamed.

Reading a request is in `chat_request`, running it in `worker`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from olivine.errors import nearest_name
from olivine.serving import responses
from olivine.serving.chat_request import ChatRequest, parse
from olivine.serving.conversation import read_messages
from olivine.serving.http_responses import json_response
from olivine.serving.image_urls import image_content
from olivine.serving.limits import Limits
from olivine.serving.metrics import Metrics
from olivine.serving.prefill import Prompt
from olivine.serving.problems import ApiError, invalid, quoted
from olivine.serving.progress import Finished, Progress, Wrote
from olivine.serving.request_body import Bodies, require_json
from olivine.serving.sequence import Sampling
from olivine.serving.served_model import ServedModel
from olivine.serving.worker import Generation, Worker, queue_full, too_late

#: Threads that read requests: JSON, images, tokens.
_READERS = 2


class ChatService:
    """What the routes share."""

    def __init__(self, models: list[ServedModel], limits: Limits) -> None:
        self._models = {model.name: model for model in models}
        self._limits = limits
        self.metrics = Metrics(models)
        self.worker = Worker(models, queue=limits.queue, on_batch=self.metrics.batch.observe)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="olivine-request")
        self._reading = 0
        self._bodies = Bodies(limits)
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
        require_json(request)
        if self._reading >= self._limits.queue:
            raise queue_full(self._limits.queue)
        self._reading += 1
        try:
            body = await self._received(request)
            try:
                loop = asyncio.get_running_loop()
                asked, model, prompt = await loop.run_in_executor(self._readers, self._read, body)
            finally:
                self._bodies.release(body)
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
        return json_response(responses.completion(heading, generation))

    async def _received(self, request: Request) -> bytes:
        try:
            return await self._bodies.receive(request)
        except ApiError as error:
            if error.code == "cut_body":
                self.metrics.disconnects.inc()
            raise

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
