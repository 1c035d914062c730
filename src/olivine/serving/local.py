"""A model in this process, asked without a server: what the terminal chat and `olivine ask` use.

The same worker as the server's answers.
"""

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from olivine.data.images import read_image_bytes
from olivine.errors import RequestError, RunError
from olivine.records import Role, Turn
from olivine.serving.conversation import with_images
from olivine.serving.limits import Limits
from olivine.serving.loading import load_models
from olivine.serving.prefill import PromptImage
from olivine.serving.problems import ApiError
from olivine.serving.sequence import Sampling, TokenLogprob
from olivine.serving.served_model import ServedModel
from olivine.serving.worker import Generation, Worker

#: A terminal waits for its one answer as long as it takes.
_DEADLINE = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of a conversation, with the image that its speaker showed."""

    role: Literal["user", "assistant"]
    text: str
    image: PromptImage | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, its probability (the end included), why it ended, and its tokens."""

    text: str
    probability: float
    finish: str
    logprobs: tuple[TokenLogprob, ...]


class _Events:
    def __init__(self) -> None:
        self.events: queue.SimpleQueue[str | ApiError | None] = queue.SimpleQueue()

    def wrote(self, _index: int, text: str, _logprobs: Sequence[TokenLogprob]) -> None:
        self.events.put(text)

    def finished(self, _index: int) -> None:
        self.events.put(None)

    def failed(self, error: ApiError) -> None:
        self.events.put(error)


class LocalModel:
    """Answers one question at a time.

    Args:
        model: the model.
        max_tokens: longest answer.
    """

    def __init__(self, model: ServedModel, max_tokens: int) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._worker = Worker([model], queue=1)

    @classmethod
    def load(cls, given: str, max_tokens: int, device: Any) -> "LocalModel":
        """Load a model folder or run directory.

        Raises:
            RequestError: it is none.
        """
        return cls(load_models([given], Limits(), device)[0], max_tokens)

    def __enter__(self) -> "LocalModel":
        self._worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.close()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    def image(self, path: Path) -> PromptImage:
        """Return an image file.

        Raises:
            DataError: it cannot be read.
            RequestError: it cannot be decoded, or is too large.
        """
        content = read_image_bytes(path)
        try:
            return self._model.image(content, str(path))
        except ApiError as error:
            raise RequestError(str(error)) from None

    def answer(self, said: Sequence[Said], on_text: Callable[[str], None] = lambda _text: None) -> Reply:
        """Return the greedy answer to a conversation that ends with the user's turn.

        Args:
            said: user and assistant alternate.
            on_text: called with each new piece of the answer.

        Raises:
            RequestError: the conversation is too long, or the template has no place for it.
            RunError: the model could not be run.
        """
        images = [one.image for one in said if one.image is not None]
        turns = [Turn(Role(one.role), one.text) for one in said]
        placed, in_front = with_images(turns, [one.image is not None for one in said])
        try:
            prompt = self._model.prompt(placed, images, in_front=in_front)
        except ApiError as error:
            raise RequestError(str(error)) from None
        longest = min(self._max_tokens, self._model.context - len(prompt.ids))
        events = _Events()
        sampling = Sampling(max_tokens=longest, top_logprobs=0)
        generation = Generation(self._model, prompt, sampling, 1, time.monotonic() + _DEADLINE, events)
        self._worker.submit(generation)
        try:
            while (event := events.events.get()) is not None:
                if isinstance(event, ApiError):
                    raise RunError(str(event))
                on_text(event)
        finally:
            generation.cancelled = True
        sequence = generation.sequences[0]
        finish, probability = sequence.finish, sequence.probability
        assert finish is not None, "it has finished"
        assert probability is not None, "logprobs were asked for"
        return Reply(sequence.stream.text, probability, finish, tuple(sequence.logprobs))
