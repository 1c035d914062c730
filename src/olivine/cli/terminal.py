"""What commands share: the log, progress bars, the format of metrics, the choice of device.

No command is defined here.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from olivine.console import stderr_console
from olivine.distributed import is_first_process
from olivine.errors import RunError
from olivine.printable import printable

#: `--json`, for every command that has it.
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

log = stderr_console()


class Bar:
    """A progress bar that is called with (done, total)."""

    def __init__(self, name: str, *, shown: bool = True) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=log,
            disable=not (shown and log.is_terminal),
        )
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Update the bar."""
        self._progress.update(self._task, completed=done, total=total)


def say(text: str) -> None:
    """Print a last line, once for all processes of a run."""
    if is_first_process():
        log.print(text, markup=False, highlight=False)


def echo(text: str) -> None:
    """Print a line of a command's output on stdout, control characters written out.

    Raises:
        RunError: stdout cannot be written, for example because the disk is full.
    """
    try:
        typer.echo(printable(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        with suppress(OSError, ValueError):  # what is still in the buffer must not fail once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunError(
            f"stdout cannot be written ({error.strerror}). The files that the command writes are complete; run it "
            "again with its output redirected elsewhere."
        ) from None


def figures_line(figures: Sequence[tuple[str, float, str]]) -> str:
    """Return figures, as (name, figure, unit), on one line."""
    return ", ".join(f"{name} {figure:.2f} {unit}".rstrip() for name, figure, unit in figures)


@contextmanager
def bars(names: list[str]) -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar per name; yield the function that updates them, called with (name, done, total)."""
    name = TextColumn("{task.description:>20}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=log, transient=True) as progress:
        tasks = {name: progress.add_task(name, total=None) for name in names}
        yield lambda name, done, total: progress.update(tasks[name], completed=done, total=total)


def selected_device() -> Any:
    """Return the GPU that torchrun assigned to this process (the first without torchrun), or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
