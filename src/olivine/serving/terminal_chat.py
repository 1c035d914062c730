"""A conversation in the terminal: streamed answers, images by command, history; in a pipe, one question a line.

Answering is in `local`.
"""

import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console

from olivine.errors import OlivineError
from olivine.printable import printable
from olivine.serving.local import LocalModel, Said
from olivine.serving.prefill import PromptImage

HELP = """\
/image FILE  show an image; the conversation starts again
/blind       ask without the image; again: with it
/reset       forget the conversation, keep the image
/help        this list
/quit        leave (or Ctrl-D)
Lines that start with // are questions that start with /."""


class TerminalChat:
    """A conversation with one model.

    Args:
        model: answers.
        source: questions, a line each.
        output: answers; nothing else goes there.
        log: prompts and messages.
    """

    def __init__(self, model: LocalModel, source: TextIO, output: TextIO, log: Console) -> None:
        self._model = model
        self._source = source
        self._output = output
        self._log = log
        self._interactive = source.isatty() and output.isatty()
        self._history: list[Said] = []
        self._image: PromptImage | None = None
        self._blind = False

    def show(self, path: Path) -> None:
        """Show an image, and start again.

        Raises:
            RequestError: it cannot be read.
        """
        self._image = self._model.image(path)
        self._history.clear()

    def run(self) -> None:
        """Answer until the questions end.

        Raises:
            OlivineError: a question could not be answered, in a pipe; a terminal is shown why.
        """
        if self._interactive:
            self._say(f"{self._model.name}. /help lists the commands, Ctrl-D leaves.")
        for line in self._lines():
            if not line:
                continue
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if not self._command(line):
                        return
                else:
                    self._answer(line.removeprefix("/") if line.startswith("//") else line)
            except OlivineError as error:
                if not self._interactive:
                    raise
                self._say(f"error: {error}")

    def _lines(self) -> Iterator[str]:
        """Yield questions; Ctrl-C at the prompt leaves, too."""
        if not self._interactive:
            for line in self._source:
                yield line.strip()
            return
        with suppress(ImportError):
            import readline  # noqa: F401  # input() then has history and editing
        with suppress(EOFError, KeyboardInterrupt):
            while True:
                yield input("> ").strip()
        self._say("")

    def _answer(self, question: str) -> None:
        first = not any(said.role == "user" for said in self._history)
        image = self._image if first and not self._blind else None
        asked = [*self._history, Said("user", question, image)]
        try:
            reply = self._model.answer(asked, self._write)
        except KeyboardInterrupt:
            self._write("\n")
            self._say("stopped; the question is not part of the conversation.")
            return
        self._write("\n")
        if reply.finish == "length":
            self._say("cut at --max-tokens.")
        self._history = [*asked, Said("assistant", reply.text)]

    def _command(self, line: str) -> bool:
        """Do what a line asks for; return whether the conversation continues."""
        name, _, rest = line.partition(" ")
        if name == "/image" and rest.strip():
            self.show(_path(rest.strip()))
            self._say(f"image: {rest.strip()}")
        elif name == "/image":
            self._say("expected /image FILE.")
        elif name == "/blind":
            self._blind = not self._blind
            self._history.clear()
            self._say("without the image; the conversation starts again." if self._blind else "with the image again.")
        elif name == "/reset":
            self._history.clear()
            self._say("the conversation starts again.")
        elif name == "/help":
            self._say(HELP)
        elif name in ("/quit", "/exit"):
            return False
        else:
            self._say(f"unknown command {name}; /help lists them.")
        return True

    def _write(self, text: str) -> None:
        self._output.write(printable(text))
        self._output.flush()

    def _say(self, text: str) -> None:
        self._log.print(text, highlight=False, markup=False)


def _path(given: str) -> Path:
    """Return the path in a line: quoted, with escaped spaces (as a terminal pastes it), or as it is."""
    if Path(given).exists():
        return Path(given)
    with suppress(ValueError):
        parts = shlex.split(given)
        if len(parts) == 1:
            return Path(parts[0]).expanduser()
    return Path(given).expanduser()
