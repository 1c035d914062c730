"""Tokens as text while they come: what may be sent already, where a stop text ends it, what each token adds.

Which tokens come is decided in `sequence`.
"""

from collections.abc import Callable, Sequence

#: What a decoder writes for bytes that are not yet a whole character.
_PARTIAL = "\ufffd"
#: Tokens before one that decide how it is written (a space in front, the first bytes of its character).
_CONTEXT = 8


class TextStream:
    """The text of an answer: white space at its ends stripped, cut in front of the first stop text.

    Args:
        decode: token ids to text, special tokens skipped.
        stops: texts that end the answer and are not part of it.
        is_byte: whether a token is a single byte, which a later one can change: the decoder replaces every byte of a
            run that is not valid UTF-8.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stops: Sequence[str] = (),
        is_byte: Callable[[int], bool] = lambda _token: False,
    ) -> None:
        self._decode = decode
        self._is_byte = is_byte
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._sent = 0
        self.text = ""
        #: Whether a stop text has been found.
        self.stopped = False

    def add(self, token: int) -> str:
        """Add a token and return the text that can be sent: it will not change, whatever follows."""
        self._ids.append(token)
        byte = self._is_byte(token)
        whole = self._decode(self._ids)
        cut = self._first_stop(whole)
        if cut is not None:
            self.stopped = True
            whole = whole[:cut]
        self.text = whole.strip()
        return "" if self.stopped or byte else self._sendable(self._safe(whole))

    def rest(self) -> str:
        """Return what has not been sent when the answer is finished."""
        left = self.text[self._sent :]
        self._sent = len(self.text)
        return left

    def _first_stop(self, whole: str) -> int | None:
        found = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        return min(found, default=None)

    def _safe(self, whole: str) -> str:
        """Return the beginning that no later token changes: no partial character, no beginning of a stop text."""
        safe = whole.rstrip(_PARTIAL)
        held = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(safe)), held, -1):
                if safe.endswith(stop[:length]):
                    held = length
                    break
        return safe[: len(safe) - held]

    def _sendable(self, safe: str) -> str:
        # White space at the end may turn out to be the answer's end.
        ready = safe.strip()
        new = ready[self._sent :]
        self._sent = max(self._sent, len(ready))
        return new


def token_text(decode: Callable[[Sequence[int]], str], before: Sequence[int], token: int) -> str:
    """Return what a token adds to the text of those before it.

    Args:
        decode: token ids to text, special tokens written out.
        before: the ids before it; the last few are read.
        token: its id.
    """
    context = list(before[-_CONTEXT:])
    earlier, whole = decode(context), decode([*context, token])
    return whole[len(earlier.rstrip(_PARTIAL)) :] if whole.startswith(earlier.rstrip(_PARTIAL)) else decode([token])
