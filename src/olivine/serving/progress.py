"""A request's progress, from the worker's thread to the event loop that answers its client.

What is made of it is in `app`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from olivine.serving.problems import ApiError
from olivine.serving.sequence import TokenLogprob


@dataclass(frozen=True, slots=True)
class Wrote:
    """New text of an answer."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer is complete."""

    index: int


Event = Wrote | Finished | ApiError


class Progress:
    """The events of one request in their order.

    Args:
        loop: where they are read.
        choices: how many answers.
        streaming: whether text is wanted as it comes; without, only the end is told.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, choices: int, *, streaming: bool) -> None:
        self._loop = loop
        self._left = choices
        self._streaming = streaming
        #: No more than one event a token comes, so the longest answer bounds it.
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    def wrote(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> None:
        """Take new text."""
        if self._streaming:
            self._put(Wrote(index, text, tuple(logprobs)))

    def finished(self, index: int) -> None:
        """Take the end of an answer; without streaming, only that of the last is told."""
        self._left -= 1
        if self._streaming or not self._left:
            self._put(Finished(index))

    def failed(self, error: ApiError) -> None:
        """Take an error, after which nothing comes."""
        self._put(error)

    def _put(self, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
