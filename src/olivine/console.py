"""The one module that reaches the terminal: its consoles print text as it is and interpret none of it.

What a run reports as it goes is printed on the console that its caller passes in. Diagnostics go to the loggers under
`olivine`, which the processes of Olivine's own show on their console.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from olivine.printable import printable


class PlainConsole(Console):
    """A console that prints text literally: no markup, no emoji codes, control characters escaped.

    Colour is given by `style=`, or by a `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text` with control characters escaped before it is measured and wrapped."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of anything that rich can render, control characters in its text escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def stderr_console(*, quiet: bool = False) -> PlainConsole:
    """Return a console for progress and messages; stdout is for results."""
    return PlainConsole(stderr=True, soft_wrap=True, quiet=quiet)


@contextmanager
def diagnostics_on(console: Console) -> Iterator[None]:
    """Show what is logged under `olivine` on a console inside the block: warnings and errors, one message each.

    The root logger and other libraries' loggers are left as they are.
    """
    logger, handler = logging.getLogger("olivine"), _OnConsole(console)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _OnConsole(logging.Handler):
    """Prints the messages of log records."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        self._console.print(record.getMessage(), style="yellow", markup=False, highlight=False)
