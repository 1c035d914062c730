"""The exceptions that reach a user, each with its exit code. Programming mistakes are not here: they are asserts.

Every message names the file, item or key, says what was expected, and what to do next.
"""


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


class Stopped(OlivineError):  # noqa: N818  # no error: the run was told to stop, and did
    """A run that was told to stop has saved what it had (exit code 0)."""

    exit_code = 0
