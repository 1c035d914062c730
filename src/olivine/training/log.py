"""What a run logs while it trains: metrics as JSON lines (and TensorBoard, if installed), a progress bar, a summary.

Nothing here decides anything.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from olivine.data.sources import Skipped
from olivine.files import append_json_line, keep_json_lines, read_json_lines
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import ModuleName, StageRecipe

_log = logging.getLogger(__name__)
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
AUDIT = "audit.jsonl"
MODULE_NAMES: tuple[ModuleName, ...] = ("vision", "connector", "language")


@dataclass(frozen=True, slots=True)
class StageSummary:
    """A stage as recorded in its logs.

    `loss` is that of the last step, None if no step trained; `seconds` is the time of all steps, including the wait
    for their batches; `skipped` says how many samples were skipped as broken, each counted once, and why.
    """

    loss: float | None
    seconds: float
    skipped: str


class MetricsLog:
    """A stage's logs: `metrics.jsonl`, `samples.jsonl` (sampled answers), `audit.jsonl` (the samples of each step).

    Lines at or after the step where training resumes are dropped, so that each step is logged exactly once. With
    several processes only the first writes.
    """

    def __init__(self, folder: Path, first_step: int, *, writes: bool = True) -> None:
        self._folder = folder
        self._writes = writes
        self._tensorboard = None
        if writes:
            for name in (METRICS, SAMPLES, AUDIT):
                if (folder / name).is_file():
                    damaged = keep_json_lines(folder / name, lambda row: row["step"] < first_step)
                    if damaged:
                        _log.warning(_damaged(folder / name, damaged))
            self._tensorboard = _tensorboard(folder)

    def losses(self, count: int) -> list[float]:
        """Return the last `count` losses of the earlier steps."""
        path = self._folder / METRICS
        rows = deque((row for row in read_json_lines(path) if "loss" in row), maxlen=count) if path.is_file() else ()
        return [row["loss"] for row in rows]

    def summary(self) -> "StageSummary":
        """Return the summary of the whole stage, over all the runs that it took."""
        path, audit = self._folder / METRICS, self._folder / AUDIT
        rows = [row for row in read_json_lines(path) if "loss" in row] if path.is_file() else []
        skipped = Skipped()
        named: dict[str, str] = {}
        for row in read_json_lines(audit) if audit.is_file() else ():
            named |= row.get("skipped", {})
        skipped.kinds.update(named.values())
        seconds = sum(row["seconds"] + row.get("waited", 0.0) for row in rows)
        return StageSummary(rows[-1]["loss"] if rows else None, seconds, skipped.describe())

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of one step."""
        if not self._writes:
            return
        append_json_line(self._folder / METRICS, {"step": step, **values})
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def sample(self, step: int, row: Mapping[str, Any]) -> None:
        """Log one sampled answer beside the true one."""
        if self._writes:
            append_json_line(self._folder / SAMPLES, {"step": step, **row})

    def audit(self, step: int, sample_ids: Sequence[str], skipped: Mapping[str, str]) -> None:
        """Log the samples that a step trained on, in sample order, and those it skipped, with the reason for each."""
        if self._writes:
            row = {"step": step, "samples": list(sample_ids), **({"skipped": dict(skipped)} if skipped else {})}
            append_json_line(self._folder / AUDIT, row)


def _damaged(path: Path, damaged: Mapping[int, str]) -> str:
    """Return the message about a log's damaged lines."""
    some = "; ".join(f"line {number} ({problem})" for number, problem in list(damaged.items())[:5])
    more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
    return f"{path}: {some}{more}: damaged, moved to {path.name}.damaged; all other lines are kept"


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
    """Return a progress bar with loss, samples per second and time left."""
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}", markup=False),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        # A log file has no use for animation frames: it gets the validation lines.
        disable=not console.is_terminal,
    )


def print_summary(
    console: Console, vlm: VisionLanguageModel, stage: StageRecipe, *, steps: int, samples: int, first_step: int
) -> None:
    """Print what trains and what is frozen, module by module."""
    table = Table(title=f"stage {stage.name}: {steps:,} steps of {stage.batch} samples, {samples:,} to train on")
    table.add_column("module")
    table.add_column("parameters", justify="right")
    table.add_column("")
    for name in MODULE_NAMES:
        parameters = vlm.part(name).values()
        training = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        trains = "trains" if training == total else f"{training:,} train"
        if training and isinstance(stage.lr, dict):
            trains += f" at {stage.lr[name]:g}"
        state = Text(trains, "green" if training == total else "") if training else Text("frozen", "dim")
        table.add_row(name, f"{total:,}", state)
    console.print(table)
    if first_step:
        console.print(f"resuming at step {first_step:,}")
