"""The command line: parse arguments, call the packages, end with one clear line; no logic of its own.

Under `--json`, only JSON goes to stdout; progress and logs go to stderr.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from olivine import __version__
from olivine.accelerators import choose_allocator
from olivine.auto_classes import withdraw
from olivine.available_cpus import limit_threads
from olivine.cli import (
    comparing,
    conversion,
    data,
    evaluation,
    explanation,
    housekeeping,
    last_resort,
    serving,
    studies,
    world,
)
from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Bar, Json, echo, log, say
from olivine.console import diagnostics_on
from olivine.distributed import is_first_process
from olivine.errors import OlivineError, OtherProcessError, Stopped
from olivine.process_end import end_process
from olivine.process_setup import ignore_known_warnings
from olivine.stop import StopSignal
from olivine.streams import guard_stderr, release

app = OnceTyper(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train, ablate, measure and explain compact vision-language models in the LLaVA recipe.\n\n"
    "Example: olivine demo --quick",
)
app.add_typer(evaluation.app)
app.add_typer(comparing.app)
app.add_typer(studies.app)
app.add_typer(explanation.app)
app.add_typer(serving.app)
app.add_typer(housekeeping.app)
app.add_typer(conversion.app)
app.add_typer(data.app, name="data")
app.add_typer(world.app, name="world")


#: Commands that resume automatically: when stopped by a signal, they save their state and exit with 75.
_RESUMABLE = {"train", "evaluate", "ablate", "demo"}


def main() -> None:
    """Run the command line; report a user's mistake as one message, without a stack trace."""
    guard_stderr()
    withdraw()
    code = _exit_code()
    if not release(sys.stdout) and code == 0:
        log.print("error: standard output could not be written completely", markup=False, highlight=False)
        code = 1
    release(sys.stderr)
    end_process(code)


def _exit_code() -> int:
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Stopped as stop:
        if is_first_process():
            log.print(str(stop), markup=False, highlight=False)
        return stop.exit_code
    except OtherProcessError as error:
        return error.exit_code
    except OlivineError as error:
        log.print(Text("error:", "red"), str(error), highlight=False)
        return error.exit_code
    except KeyboardInterrupt:
        log.print("stopped")
        return 130
    except Exception as error:
        last_resort.report(error, log)
        return 1
    return 0


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"olivine {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    _quiet_libraries()
    context.with_resource(diagnostics_on(log))
    # torch reads both settings when it is imported, and CUDA when it is initialised.
    limit_threads()
    choose_allocator()
    if context.invoked_subcommand in _RESUMABLE:
        context.with_resource(StopSignal())


@app.command()
def train(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="A recipe (YAML file or shipped name), or the directory of a run to resume in place."
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe fields to override, by dotted key.")
    ] = None,
) -> None:
    """Train all stages of a recipe; resume automatically where an earlier run stopped.

    On several GPUs or machines: torchrun --nproc-per-node 8 -m olivine train RECIPE.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save the training state and exit with code 75; the same command resumes. A
    second Ctrl-C exits immediately. Other exit codes: 0 done, 1 failed, 2 invalid request.

    Example: olivine train recipes/easy-vqa.yaml output=runs/try stages.instruct.lr=1e-3

    Fine-tuning: olivine train fine-tune model.from=runs/try data.own.images=my/images stages.tune.lora.rank=16
    """
    from olivine.recipe import load
    from olivine.shipped_recipes import resolve
    from olivine.training.run import train as run

    checkpoint = run(load(resolve(recipe), overrides or []), log)
    say(f"done: {checkpoint}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Directory for the data and the run.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option(help="Run one configuration instead of eight, on four benchmarks.")] = False,
    jobs: Annotated[
        int, typer.Option(help="Steps to run in parallel; 0: one per GPU, or without GPUs one per core, at most four.")
    ] = 0,
) -> None:
    """Run the paper's study on the embedded world: eight configurations, eight benchmarks, a report with intervals.

    If it is killed at any instant, the same command resumes without repeating finished work. Ctrl-C, SIGTERM, SIGHUP
    and SIGUSR1 save the state and exit with code 75.

    Example: olivine demo --quick
    """
    from olivine.demo import run

    if run(output, quick=quick, console=log, bar=Bar, jobs=jobs):
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe: a YAML file, or the name of a shipped one.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe fields to override, by dotted key.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device type, such as h100.")] = "h100",
    count: Annotated[int, typer.Option(help="Number of devices.")] = 1,
    utilisation: Annotated[float, typer.Option(help="Fraction of the device's peak FLOP/s that is reached.")] = 0.4,
    as_json: Json = False,
) -> None:
    """Estimate what a recipe costs: parameters, tokens, operations, memory by module, hours. Nothing is run.

    Example: olivine plan recipes/easy-vqa.yaml --device h100 --count 8
    """
    import dataclasses

    from olivine.cost.estimate import estimate
    from olivine.cost.table import lines
    from olivine.recipe import load
    from olivine.shipped_recipes import resolve

    made = estimate(load(resolve(recipe), overrides or []), device, count, utilisation=utilisation)
    if as_json:
        echo(json.dumps({**dataclasses.asdict(made), "hours": made.hours}))
        return
    for line in lines(made):
        echo(line)


@app.command()
def doctor() -> None:
    """Show this machine's hardware and software, and what Olivine will use of it.

    Example: olivine doctor
    """
    from olivine.doctor import describe

    for name, value in describe().items():
        echo(f"{name}\t{value}")


def _quiet_libraries() -> None:
    """Keep transformers' torchvision advice off the terminal, and its loading bars out of log files."""
    ignore_known_warnings()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not log.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


__all__ = ["app", "main"]
