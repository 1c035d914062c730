"""Runs of a real stage, and what is measured in them: seconds per step, memory, compilations, kernels, waits."""

import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from flops import SampleSize
from rich.console import Console
from torch import nn
from torch._dynamo.utils import counters

from olivine.data.sources import Skipped, read_samples
from olivine.distributed import Processes
from olivine.files import read_json_lines
from olivine.recipe import Recipe
from olivine.training.log import METRICS
from olivine.training.stage import Stage

CUDA = torch.cuda.is_available()


@dataclass(frozen=True)
class Measured:
    """Counted steps: seconds with the waiting for batches, that waiting alone, and the samples of each."""

    seconds: list[float]
    waited: list[float]
    samples: list[list[SampleSize]]
    peak: int
    graphs: int
    graph_breaks: int
    recompilations: int
    said: str


class Recompilations(logging.Handler):
    """Counts the compiler's messages about functions that it compiles again."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "Recompiling function" in record.getMessage()


def run_stage(vlm: Any, recipe: Recipe, folder: Path, *, warm: int) -> Measured:
    """Train a stage of one process to its end and read its own log."""
    samples = read_samples(recipe.data["d"], Skipped())
    console = Console(file=io.StringIO(), width=200)
    counters.clear()
    with counted_recompilations() as recompilations:
        job = Stage(vlm, recipe, recipe.stages[0], samples, folder, console, Processes())
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        try:
            job.run()
            peak = torch.cuda.max_memory_allocated() if CUDA else 0
        finally:
            job.release()
    rows = [row for row in read_json_lines(folder / METRICS) if "loss" in row][warm:]
    encoder = vlm.encoder(recipe.stages[0].template)
    sizes = []
    for row in rows:
        examples = [encoder.example(samples[index]) for _, index in job.order.at(row["step"])]
        sizes.append([SampleSize(e.length, e.labels, int(e.sample.image is not None)) for e in examples])
    return Measured(
        seconds=[row["seconds"] + row.get("waited", 0.0) for row in rows],
        waited=[row.get("waited", 0.0) for row in rows],
        samples=sizes,
        peak=peak,
        graphs=counters["stats"].get("unique_graphs", 0),
        graph_breaks=sum(counters["graph_break"].values()),
        recompilations=recompilations.count,
        said=_about_attention(console),
    )


def profile_step(vlm: Any, recipe: Recipe) -> dict[str, Any]:
    """Return which attention a stage takes, by the operations it calls; on a GPU also waits and the slowest kernels."""
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * CUDA
    with (
        TemporaryDirectory() as folder,
        counted_waits() as waits,
        torch.profiler.profile(activities=activities) as profile,
    ):
        run_stage(vlm, recipe, Path(folder), warm=0)
    events = profile.key_averages()
    taken = {
        event.key: event.count
        for event in events
        if not event.key.endswith("_backward") and ("varlen_attn" in event.key or "scaled_dot_product" in event.key)
    }
    row: dict[str, Any] = {"steps_looked_at": recipe.stages[0].steps, "attention_operations": taken}
    if CUDA:
        dear = sorted(events, key=lambda event: -event.self_device_time_total)[:12]
        row["dearest_ms"] = {event.key[:60]: round(event.self_device_time_total / 1e3, 2) for event in dear}
        row["waits"] = dict(waits.most_common(12))
        row["waits_in_all"] = sum(waits.values())
    return row


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """Count by line of code where the host waits for the GPU; without a GPU there is nothing to count."""
    waits: Counter[str] = Counter()
    if not CUDA:
        yield waits
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits.update(
        f"{Path(warning.filename).name}:{warning.lineno}" for warning in caught if "synchron" in str(warning.message)
    )


@contextmanager
def counted_recompilations() -> Iterator[Recompilations]:
    handler, logger = Recompilations(), logging.getLogger("torch._dynamo")
    torch._logging.set_logs(recompiles=True)
    logger.addHandler(handler)
    # Counted, not printed.
    others = [other for other in logger.handlers if other is not handler]
    for other in others:
        logger.removeHandler(other)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        for other in others:
            logger.addHandler(other)
        torch._logging.set_logs()


@contextmanager
def compile_in_small(small: bool) -> Iterator[None]:
    """At a small size, capture graphs and run them without generating code, which would take minutes on a CPU."""
    if not small:
        yield
        return
    original = nn.Module.compile

    def compile_(module: nn.Module, *given: Any, **options: Any) -> None:
        original(module, *given, **{**options, "backend": "aot_eager"})

    with mock.patch.object(nn.Module, "compile", compile_):
        yield


def _about_attention(console: Console) -> str:
    """Return the line in which the stage logs which attention it takes, if there is one."""
    assert isinstance(console.file, io.StringIO), "made by run_stage"
    lines = [line.strip() for line in console.file.getvalue().splitlines() if "attention" in line.lower()]
    return lines[0] if lines else ""
