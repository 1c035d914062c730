"""The console that all messages go through: it shows what it is given and obeys none of it.

Which messages there are is for those who print.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from olivine.printable import printable


class PlainConsole(Console):
    """A console that takes text for text: no markup, no emoji codes, control characters written out.

    Colour is given by `style=`, or by a `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text` with control characters written out before it is measured and wrapped."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the pieces of anything rich can show, control characters in its text written out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
