"""What a run says while it trains: metrics as JSON lines (and TensorBoard, if installed), a progress bar, a summary.

Nothing here decides anything.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from olivine.files import append_json_line, read_json_lines, write_json_lines
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import Part, StageRecipe

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
PARTS: tuple[Part, ...] = ("vision", "connector", "language")


class MetricsLog:
    """`metrics.jsonl` and `samples.jsonl` of a stage; rows at or behind the step that is gone on with are dropped."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self._folder = folder
        for name in (METRICS, SAMPLES):
            path = folder / name
            if path.is_file():
                write_json_lines(path, [r for r in read_json_lines(path, allow_cut_end=True) if r["step"] < first_step])
        self._tensorboard = _tensorboard(folder)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One row of numbers."""
        append_json_line(self._folder / METRICS, {"step": step, **values})
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def sample(self, step: int, row: Mapping[str, Any]) -> None:
        """One sampled answer, beside the true one."""
        append_json_line(self._folder / SAMPLES, {"step": step, **row})


def _tensorboard(folder: Path) -> Any | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        per_step = task.fields.get("batch", 1)
        return Text("–" if rate is None else f"{rate * per_step:,.0f} samples/s")


def progress_bar(console: Console) -> Progress:
    """A bar with loss, samples a second and time left."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        # A log file has no use for frames: it gets the validation lines.
        disable=not console.is_terminal,
    )


def print_summary(
    console: Console, vlm: VisionLanguageModel, stage: StageRecipe, *, steps: int, samples: int, first_step: int
) -> None:
    """What trains and what is frozen, part by part."""
    table = Table(title=f"stage {stage.name}: {steps:,} steps of {stage.batch} samples, {samples:,} to train on")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("")
    for part in PARTS:
        parameters = vlm.part(part).values()
        training = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        state = "[green]trains" if training == total else "[dim]frozen" if not training else f"{training:,} train"
        table.add_row(part, f"{total:,}", state)
    console.print(table)
    if first_step:
        console.print(f"going on at step {first_step:,}")
