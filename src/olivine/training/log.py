"""What a run says while it trains: metrics as JSON lines (and TensorBoard, if installed), a progress bar, a summary.

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
    """A stage as its logs have it.

    `loss` is that of the last step, None where none learnt; `seconds` those of all steps with the waiting for their
    batches; `skipped` says how many samples were left out as broken, each counted once, and why.
    """

    loss: float | None
    seconds: float
    skipped: str


class MetricsLog:
    """A stage's logs: `metrics.jsonl`, `samples.jsonl` (sampled answers), `audit.jsonl` (which samples a step took).

    Rows at or behind the step that is resumed at are dropped, so that each step is there exactly once. Of several
    processes the first alone writes.
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
        """The last losses of the steps before."""
        path = self._folder / METRICS
        rows = deque((row for row in read_json_lines(path) if "loss" in row), maxlen=count) if path.is_file() else ()
        return [row["loss"] for row in rows]

    def summary(self) -> "StageSummary":
        """What the whole stage came to, whatever its runs were."""
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
        """One row of numbers."""
        if not self._writes:
            return
        append_json_line(self._folder / METRICS, {"step": step, **values})
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def sample(self, step: int, row: Mapping[str, Any]) -> None:
        """One sampled answer, beside the true one."""
        if self._writes:
            append_json_line(self._folder / SAMPLES, {"step": step, **row})

    def audit(self, step: int, sample_ids: Sequence[str], skipped: Mapping[str, str]) -> None:
        """The samples that a step learnt from, in the order's own order, and those it left out, with what was wrong."""
        if self._writes:
            row = {"step": step, "samples": list(sample_ids), **({"skipped": dict(skipped)} if skipped else {})}
            append_json_line(self._folder / AUDIT, row)


def _damaged(path: Path, damaged: Mapping[int, str]) -> str:
    """What is said of a log's damaged lines."""
    some = "; ".join(f"line {number} ({problem})" for number, problem in list(damaged.items())[:5])
    more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
    return f"{path}: {some}{more}: damaged, moved to {path.name}.damaged; all other rows are kept"


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
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}", markup=False),
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
    for part in MODULE_NAMES:
        parameters = vlm.part(part).values()
        training = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        whole, none = Text("trains", "green"), Text("frozen", "dim")
        state = whole if training == total else none if not training else f"{training:,} train"
        table.add_row(part, f"{total:,}", state)
    console.print(table)
    if first_step:
        console.print(f"resuming at step {first_step:,}")
