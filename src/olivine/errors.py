"""The exceptions that reach a user, each with its exit code, and suggestions for wrong names.

Programming mistakes are not here: they are asserts.

Every message names the file, item or key, and says what was expected and what to do next.
"""

import difflib
from collections.abc import Iterable


class OlivineError(Exception):
    """Anything a user can act on; printed as one message without a stack trace."""

    exit_code = 1


class RequestError(OlivineError):
    """The request was wrong: a recipe key, a path, an option (exit code 2)."""

    exit_code = 2


class DataError(RequestError):
    """A data set, question or answers file does not contain what it must (exit code 2)."""


class RunError(OlivineError):
    """A valid run could not be finished (exit code 1)."""


class OtherProcessError(OlivineError):
    """Another process of the same run failed and reports why; this one ends silently with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run failed; the first process says why")
        self.exit_code = exit_code


class Stopped(BaseException):  # not an error: the run was asked to stop, and did
    """A run was asked to stop before its end, has saved its state, and can be resumed (exit code 75).

    Like `KeyboardInterrupt` it is no `Exception`: a library that catches everything must not swallow it.
    """

    #: EX_TEMPFAIL of sysexits.h: "try again later", which a scheduler can distinguish from done, failed and refused.
    exit_code = 75


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return the message for a name that is not in `known`: the nearest of them, and all."""
    valid = sorted(known)
    nearest = nearest_name(name, valid)
    hint = f" Did you mean {nearest!r}?" if nearest else ""
    return f"unknown name {name!r}.{hint} Valid: {', '.join(valid)}."


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that `name` was probably meant to be; None if none is close.

    `held_out` is not close to `dropout`, though half their letters agree: a wrong guess is worse than none.
    """
    valid = sorted(known)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return close[0]
    # Too short to be close by letters: two of them exchanged, or one word of a longer name.
    alike = [other for other in valid if sorted(other) == sorted(name) or name in other.split("_")]
    return alike[0] if len(alike) == 1 else None
