"""One thread that runs all models: requests that arrive together are run together, and join answers being written.

What a request asks for is read in `chat_request`; what a client is sent is in `app`.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Protocol

import torch

from olivine.model.position_attention import by_position
from olivine.serving.prefill import Prompt
from olivine.serving.problems import ApiError
from olivine.serving.sequence import AnswerSequence, Listener, Sampling
from olivine.serving.served_model import ServedModel

_log = logging.getLogger(__name__)


class GenerationListener(Listener, Protocol):
    """Is told of the progress of a whole request, from the worker's thread."""

    def failed(self, error: ApiError) -> None:
        """Take note that no more will come."""


@dataclass(slots=True, eq=False)
class Generation:
    """A request on its way through the worker.

    Attributes:
        model: which model answers.
        prompt: what it is asked.
        sampling: how each of the answers is chosen.
        choices: how many answers.
        deadline: `time.monotonic()` after which it fails.
        listener: is told of its progress.
        sequences: its answers, once it runs.
        cached_tokens: prompt tokens that were not run again.
        cancelled: set by whoever no longer waits; its place is then free at the next token.
    """

    model: ServedModel
    prompt: Prompt
    sampling: Sampling
    choices: int
    deadline: float
    listener: GenerationListener
    sequences: list[AnswerSequence] = field(default_factory=list)
    cached_tokens: int = 0
    cancelled: bool = False

    @property
    def tokens(self) -> int:
        """The most tokens that each of its answers takes, prompt included."""
        return len(self.prompt.ids) + self.sampling.max_tokens

    @property
    def unwanted(self) -> bool:
        """Whether it was cancelled or is too late."""
        return self.cancelled or time.monotonic() > self.deadline


class Worker:
    """Runs the models in a thread of its own.

    Args:
        models: all of them.
        queue: requests that may wait.
        on_batch: called after each token of a batch with the number of answers in it.
    """

    def __init__(
        self, models: Iterable[ServedModel], *, queue: int, on_batch: Callable[[int], None] = lambda _count: None
    ) -> None:
        self._models = list(models)
        self._queue = queue
        self._on_batch = on_batch
        self._waiting: deque[Generation] = deque()
        self._running: dict[AnswerSequence, Generation] = {}
        self._changed = Condition()
        self._closing = False
        self._thread = Thread(target=self._run, name="olivine-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish everything that was submitted, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests are being worked on."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests without a place in a batch."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers being written."""
        return len(self._running)

    def submit(self, generation: Generation) -> None:
        """Add a request.

        Raises:
            ApiError: too many are waiting (429), or the server is stopping (503).
        """
        with self._changed:
            if self._closing:
                raise ApiError(503, "stopping", "the server is stopping; try again later.", retry_after=5)
            if len(self._waiting) >= self._queue:
                raise queue_full(self._queue)
            self._waiting.append(generation)
            self._changed.notify()

    def _run(self) -> None:
        with torch.inference_mode(), ExitStack() as stack:
            for model in self._models:
                if not model.vlm.traits.plain:
                    stack.enter_context(by_position(model.vlm.language))
            while self._wait():
                for model in self._models:
                    self._work(model)

    def _wait(self) -> bool:
        """Wait for something to do; return False when the worker is to end."""
        with self._changed:
            while not self._waiting and not self._running:
                if self._closing:
                    return False
                self._changed.wait()
        return True

    def _work(self, model: ServedModel) -> None:
        """Let waiting requests join, and write one token of every answer."""
        admitted = self._admit(model)
        if admitted:
            self._prefill(model, admitted)
        batch = model.batch
        late = {one for one, generation in self._running.items() if generation.model is model and generation.unwanted}
        if late:
            self._end_unwanted({self._running[one] for one in late})
            batch.drop(late.__contains__)
        if not batch.sequences:
            return
        before = list(batch.sequences)
        try:
            self._on_batch(batch.step())
        except Exception as error:  # one request's fault must not end the thread that serves all
            _log.exception("a batch of answers failed")
            batch.clear()
            for generation in {self._running[one] for one in before if one in self._running}:
                generation.listener.failed(_internal(error))
            for one in before:
                self._running.pop(one, None)
            return
        for one in set(before).difference(batch.sequences):
            self._running.pop(one, None)

    def _admit(self, model: ServedModel) -> list[Generation]:
        """Take the requests that fit in beside what is running, in the order of their arrival."""
        held, run = model.budgets
        rows, longest, prefill = len(model.batch.sequences), model.batch.longest, 0
        admitted: list[Generation] = []
        with self._changed:
            later: deque[Generation] = deque()
            full = False
            unwanted = []
            while self._waiting:
                one = self._waiting.popleft()
                if one.unwanted:
                    unwanted.append(one)
                    continue
                if one.model is not model or full:
                    later.append(one)
                    continue
                after = (rows + one.choices) * max(longest, one.tokens)
                too_many = after > held or prefill + len(one.prompt.ids) > run
                if too_many and (rows or admitted):
                    full = True
                    later.append(one)
                    continue
                rows, longest = rows + one.choices, max(longest, one.tokens)
                prefill += len(one.prompt.ids)
                admitted.append(one)
            self._waiting = later
        self._end_unwanted(unwanted)
        return admitted

    def _prefill(self, model: ServedModel, admitted: Sequence[Generation]) -> None:
        try:
            order, prompts, kept = model.prefiller.run([one.prompt for one in admitted])
        except Exception as error:  # as above; a torch error may be that of one request among many
            if len(admitted) > 1:
                for one in admitted:
                    self._prefill(model, [one])
                return
            _log.exception("a prompt failed")
            admitted[0].listener.failed(_internal(error))
            return
        owners, sequences = [], []
        for row, number in enumerate(order):
            one = admitted[number]
            one.cached_tokens = kept[number]
            one.sequences = [
                AnswerSequence(model.vlm, index, one.sampling, model.stop_ids, one.listener)
                for index in range(one.choices)
            ]
            owners += [row] * one.choices
            sequences += one.sequences
            self._running |= dict.fromkeys(one.sequences, one)
        try:
            model.batch.join(prompts, owners, sequences)
        except Exception as error:
            _log.exception("a batch of prompts failed")
            for one in admitted:
                one.listener.failed(_internal(error))
            for sequence in sequences:
                self._running.pop(sequence, None)

    def _end_unwanted(self, generations: Iterable[Generation]) -> None:
        for one in generations:
            if not one.cancelled:
                one.listener.failed(too_late())
            for sequence in one.sequences:
                self._running.pop(sequence, None)


def queue_full(queue: int) -> ApiError:
    """Return the error for a request that finds no place in the waiting line."""
    return ApiError(429, "queue_full", f"{queue} requests are waiting already; try again later.", retry_after=1)


def too_late() -> ApiError:
    """Return the error for a request that took too long."""
    return ApiError(504, "time_limit", "the request was not finished within the server's time limit.")


def _internal(error: Exception) -> ApiError:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ApiError(500, "out_of_memory", "not enough memory to answer this request.")
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return ApiError(500, "internal_error", f"the model could not be run ({type(error).__name__}: {first}).")


__all__ = ["Generation", "GenerationListener", "Worker", "queue_full", "too_late"]
