"""The exceptions that reach a user, each with its exit code, and how a wrong name is answered.

Programming mistakes are not here: they are asserts.

Every message names the file, item or key, says what was expected, and what to do next.
"""

import difflib
from collections.abc import Iterable


class OlivineError(Exception):
    """Anything a user can act on; shown as one message without a stack trace."""

    exit_code = 1


class RequestError(OlivineError):
    """The request was wrong: a recipe key, a path, an option (exit code 2)."""

    exit_code = 2


class DataError(RequestError):
    """A data set, question or answers file does not hold what it must (exit code 2)."""


class RunError(OlivineError):
    """A run that was rightly asked for could not be finished (exit code 1)."""


def unknown_name(name: str, known: Iterable[str]) -> str:
    """What to say to a name that is none of `known`: the nearest of them, and all."""
    valid = sorted(known)
    nearest = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown name {name!r}.{hint} Valid: {', '.join(valid)}."


class Stopped(OlivineError):  # noqa: N818  # no error: the run was told to stop, and did
    """A run that was told to stop has saved what it had (exit code 0)."""

    exit_code = 0
