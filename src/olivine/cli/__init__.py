"""The front door: arguments in, the rooms called, one clear last line; no logic of its own.

JSON goes to stdout and nothing else does under `--json`; progress and logs go to stderr.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from olivine import __version__
from olivine.cli import data, evaluation, housekeeping, studies, world
from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Bar, Json, echo, log, say
from olivine.errors import OlivineError, Stopped

app = OnceTyper(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train, ablate, measure and explain compact vision-language models in the LLaVA recipe.",
)
app.add_typer(evaluation.app)
app.add_typer(studies.app)
app.add_typer(housekeeping.app)
app.add_typer(data.app, name="data")
app.add_typer(world.app, name="world")


def main() -> None:
    """Run the command line; a user's mistake is one message, without a stack trace."""
    try:
        app()
    except Stopped as stop:
        say(str(stop))
    except OlivineError as error:
        log.print(Text("error:", "red"), str(error), highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        log.print("stopped; run the same command to go on")
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"olivine {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _shown: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    _quiet_libraries()


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a YAML file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
) -> None:
    """Train all stages of a recipe; goes on by itself where an earlier run stopped.

    Several processes or machines: torchrun --nproc-per-node 8 -m olivine train RECIPE. SIGTERM saves and exits with 0.

    Example: olivine train recipes/easy-vqa.yaml output=runs/try stages.instruct.lr=1e-3
    """
    from olivine.recipe import load
    from olivine.shipped_recipes import resolve
    from olivine.train.run import train as run

    checkpoint = run(load(resolve(recipe), overrides or []), log)
    say(f"done: {checkpoint}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where data and run go.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option(help="One cell instead of eight, on four of the benchmarks.")] = False,
    jobs: Annotated[int, typer.Option(help="Steps at a time; 0: one on each GPU, or core up to four.")] = 0,
) -> None:
    """Run the paper's study on the embedded world: eight cells, eight benchmarks, a report with intervals.

    Killed at any instant, the same command goes on; what is done is not done again.

    Example: olivine demo --quick
    """
    from olivine.demo import run

    if run(output, quick=quick, console=log, bar=Bar, jobs=jobs):
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a YAML file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    device: Annotated[str, typer.Option(help="A device by name, such as h100.")] = "h100",
    count: Annotated[int, typer.Option(help="How many.")] = 1,
    utilisation: Annotated[float, typer.Option(help="Share of the device's peak that is reached.")] = 0.4,
    as_json: Json = False,
) -> None:
    """Say what a recipe will cost: parameters, tokens, operations, memory by part, hours. Nothing is run.

    Example: olivine plan recipes/easy-vqa.yaml --device h100 --count 8
    """
    import dataclasses

    from olivine.recipe import load
    from olivine.shipped_recipes import resolve
    from olivine.train.plan import estimate
    from olivine.train.plan_table import lines

    made = estimate(load(resolve(recipe), overrides or []), device, count, utilisation=utilisation)
    if as_json:
        echo(json.dumps({**dataclasses.asdict(made), "hours": made.hours}))
        return
    for line in lines(made):
        echo(line)


@app.command()
def doctor() -> None:
    """Say what this machine has, and what Olivine will use.

    Example: olivine doctor
    """
    from olivine.doctor import describe

    for name, value in describe().items():
        echo(f"{name}\t{value}")


def _quiet_libraries() -> None:
    """Keep transformers' advice about torchvision out of a user's terminal, and its loading bars out of log files."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not log.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


__all__ = ["app", "main"]
