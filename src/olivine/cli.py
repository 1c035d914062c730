"""The front door: arguments in, the rooms called, one clear last line; no logic of its own.

JSON goes to stdout and nothing else does under `--json`; progress and logs go to stderr.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from olivine import __version__
from olivine.errors import OlivineError, RequestError, Stopped
from olivine.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train, ablate, measure and explain compact vision-language models in the LLaVA recipe.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at and check training data; convert easy-VQA.")
app.add_typer(data_app, name="data")

log = Console(stderr=True, soft_wrap=True)


def main() -> None:
    """Run the command line; a user's mistake is one message, without a stack trace."""
    try:
        app()
    except Stopped as stop:
        _say(str(stop))
    except OlivineError as error:
        log.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
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
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
) -> None:
    """Train all stages of a recipe; goes on by itself where an earlier run stopped.

    Several processes or machines: torchrun --nproc-per-node 8 -m olivine train RECIPE. SIGTERM saves and exits with 0.

    Example: olivine train recipes/easy-vqa.yaml output=runs/try stages.instruct.lr=1e-3
    """
    from olivine.recipe import load
    from olivine.train.run import train as run

    checkpoint = run(load(recipe, overrides or []), log)
    _say(f"done: {checkpoint}")


_JudgeUrl = Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint that grades (MM-Vet).")]
_JudgeModel = Annotated[str | None, typer.Option(help="The judge's model; its key comes from OLIVINE_JUDGE_KEY.")]
_JudgePrompt = Annotated[Path | None, typer.Option(help="A file with your own wording for the judge.")]
_JudgeRuns = Annotated[int | None, typer.Option(help="How often every answer is graded.")]
_Variant = Annotated[str | None, typer.Option(help="Scoring variant, by name; the first is official.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder or a run directory.")],
    data: Annotated[Path, typer.Option(help="The benchmark's own files: a file or folder.")],
    benchmarks: Annotated[
        str | None, typer.Option(help="Names, by commas. Default: those of the run's recipe.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Image root, if it is not beside the data.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the files go. Default: beside the checkpoint.")] = None,
    blind: Annotated[bool, typer.Option("--blind", help="Ask without pictures: how far does guessing get?")] = False,
    shuffled: Annotated[bool, typer.Option("--shuffled", help="Show another question's picture each time.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Prompt wording, by name.")] = None,
    variant: _Variant = None,
    judge_url: _JudgeUrl = None,
    judge_model: _JudgeModel = None,
    judge_prompt: _JudgePrompt = None,
    judge_runs: _JudgeRuns = None,
    as_json: _Json = False,
) -> None:
    """Answer benchmark questions and score the answers.

    Example: olivine evaluate runs/easy-vqa --benchmarks exact-match --data data/easy-vqa
    """
    from olivine.evaluate import benchmarks as known
    from olivine.evaluate.run import Control, Evaluation
    from olivine.evaluate.run import evaluate as run
    from olivine.model.checkpoint import load
    from olivine.train.run import find_checkpoint, recorded_benchmarks

    if blind and shuffled:
        raise RequestError("--blind and --shuffled: give one of them.")
    control: Control | None = "blind" if blind else "shuffled" if shuffled else None
    folder = find_checkpoint(checkpoint)
    chosen = [name for name in (benchmarks or "").split(",") if name] or recorded_benchmarks(checkpoint)
    if not chosen:
        raise RequestError(f"--benchmarks: missing. Valid: {', '.join(known.names())}.")
    base = output or (folder.parent if folder.name == "checkpoint" and checkpoint != folder else folder) / "evaluation"
    options = _judging(judge_url, judge_model, base, judge_prompt, judge_runs)
    made = [known.get(name, **options) for name in chosen]
    vlm = load(folder)
    vlm.model.to(_device())
    summaries = []
    for benchmark in made:
        place = data / benchmark.name if (data / benchmark.name).is_dir() else data
        target = base / (benchmark.name + (f"-{control}" if control else ""))
        wanted = Evaluation(benchmark, place, images, target, str(folder), control, prompt, variant)
        with _bar(benchmark.name) as bar:
            score = run(vlm, folder, wanted, bar)
        summaries.append(score.summary())
        log.print(f"{benchmark.name}: {_metrics(score.metrics)} -> {target}", highlight=False)
    if as_json:
        typer.echo(json.dumps(summaries[0] if len(summaries) == 1 else summaries))


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="The benchmark's name.")],
    annotations: Annotated[Path, typer.Option(help="The benchmark's own questions or labels: a file or folder.")],
    answers: Annotated[Path, typer.Option(help="Answers in the benchmark's own format or LLaVA's JSON lines.")],
    variant: _Variant = None,
    questions: Annotated[Path | None, typer.Option(help="A separate question file (POPE's, VQAv2's).")] = None,
    choices: Annotated[Path | None, typer.Option(help="GQA's choices file.")] = None,
    grades: Annotated[Path | None, typer.Option(help="MM-Vet grades to replay instead of asking a judge.")] = None,
    judge_url: _JudgeUrl = None,
    judge_model: _JudgeModel = None,
    judge_prompt: _JudgePrompt = None,
    judge_runs: _JudgeRuns = None,
    as_json: _Json = False,
) -> None:
    """Score an answers file, by whatever model or tool it was made.

    Example: olivine score pope --annotations coco_pope_random.json --answers answers.jsonl --json
    """
    from olivine.evaluate import benchmarks as known

    options = _judging(judge_url, judge_model, answers.parent, judge_prompt, judge_runs)
    chosen = known.get(benchmark, questions=questions, choices=choices, grades=grades, **options)
    asked = chosen.read(annotations)
    result = chosen.score(asked, chosen.read_answers(answers, asked), variant)
    if as_json:
        typer.echo(json.dumps({**result.summary(), **chosen.judged_by()}))
        return
    log.print(f"{result.benchmark} ({result.variant}), {len(result.items):,} questions", highlight=False)
    if result.missing:
        log.print(f"{len(result.missing):,} without an answer (first: {result.missing[0]!r})", markup=False)
    for name, value in result.metrics.items():
        typer.echo(f"{name}\t{value:.4f}")


def _judging(url: str | None, model: str | None, folder: Path, prompt: Path | None, runs: int | None) -> dict[str, Any]:
    """The options of a benchmark that a judge grades; replies are kept in `folder`, so that a rerun costs nothing."""
    from olivine.evaluate.judge import Judge

    if (url is None) != (model is None):
        raise RequestError("--judge-url and --judge-model go together; give both, or neither.")
    judge = None if url is None or model is None else Judge(url, model, folder / "judge-cache")
    return {"judge": judge, "judge_prompt": prompt, "runs": runs}


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where data and run go.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option(help="A cut of about two minutes: fewer steps, a lower score.")] = False,
) -> None:
    """Train easy-VQA from nothing and answer its 9,673 test questions.

    Example: olivine demo --quick
    """
    from olivine.demo import run

    run(output, quick=quick, console=log, bar=_bar)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    device: Annotated[str, typer.Option(help="A device by name, such as h100.")] = "h100",
    count: Annotated[int, typer.Option(help="How many.")] = 1,
    utilisation: Annotated[float, typer.Option(help="Share of the device's peak that is reached.")] = 0.4,
    as_json: _Json = False,
) -> None:
    """Say what a recipe will cost: parameters, tokens, operations, memory by part, hours. Nothing is run.

    Example: olivine plan recipes/easy-vqa.yaml --device h100 --count 8
    """
    import dataclasses

    from olivine.recipe import load
    from olivine.train.plan import estimate
    from olivine.train.plan_table import lines

    made = estimate(load(recipe, overrides or []), device, count, utilisation=utilisation)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(made), "hours": made.hours}))
        return
    for line in lines(made):
        typer.echo(line)


@app.command()
def doctor() -> None:
    """Say what this machine has, and what Olivine will use.

    Example: olivine doctor
    """
    from olivine.doctor import describe

    for name, value in describe().items():
        typer.echo(f"{name}\t{value}")


@data_app.command("check")
def data_check(
    dataset: Annotated[Path, typer.Argument(help="A LLaVA JSON file.")],
    images: Annotated[Path | None, typer.Option(help="Image root.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer (folder or hub id), to find samples too long.")
    ] = None,
    template: Annotated[str, typer.Option(help="Chat template for that.")] = "gemma",
    image_tokens: Annotated[int, typer.Option(help="Tokens a picture takes.")] = 576,
    max_length: Annotated[int, typer.Option(help="Longest sample, in tokens.")] = 2048,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Say what is missing, broken, empty or too long; nothing is changed.

    Example: olivine data check data/easy-vqa/instructions.json --images data/easy-vqa/images
    """
    from olivine.data.check import LengthLimit, check

    limit = None
    if tokenizer is not None:
        limit = LengthLimit(_encoder(tokenizer, template, image_tokens), max_length)
    with _bar("checking") as bar:
        report = check(dataset, images, limit, bar)
    if as_json:
        typer.echo(json.dumps(report.summary()))
    else:
        for line in report.lines():
            typer.echo(line)


@data_app.command("show")
def data_show(
    dataset: Annotated[Path, typer.Argument(help="A LLaVA JSON file.")],
    item: Annotated[str, typer.Option(help="The item's id, or its place in the file as #N.")] = "#0",
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer (folder or hub id); default: bytes.")] = None,
    template: Annotated[str, typer.Option(help="Chat template.")] = "gemma",
    image_tokens: Annotated[int, typer.Option(help="Tokens a picture takes.")] = 576,
    turns: Annotated[str, typer.Option(help="together or independent.")] = "together",
) -> None:
    """Show one sample as the model sees it: supervised tokens in green, all others grey.

    Example: olivine data show data/easy-vqa/instructions.json --item train-7
    """
    from olivine.data.show import show

    show(dataset, item, _encoder(tokenizer, template, image_tokens), turns, Console(soft_wrap=True, highlight=False))


@data_app.command("easy-vqa")
def data_easy_vqa(
    target: Annotated[Path, typer.Argument(help="The folder to write.")] = Path("data/easy-vqa"),
    source: Annotated[Path | None, typer.Option(help="A folder of easy-VQA; default: the installed package.")] = None,
) -> None:
    """Write easy-VQA as LLaVA JSON: captions, instructions and test questions.

    Example: olivine data easy-vqa data/easy-vqa
    """
    from olivine.data.easy_vqa import convert, package_folder

    with _bar("easy-VQA") as bar:
        convert(source or package_folder(), target, bar)
    log.print(f"done: {target}", highlight=False)


def _encoder(tokenizer: str | None, template: str, image_tokens: int) -> Any:
    from olivine.data.encoding import TemplateEncoder
    from olivine.data.template import TEMPLATES
    from olivine.data.vocabulary import byte_tokenizer
    from olivine.model.build import image_token, load_tokenizer

    if template not in TEMPLATES:
        raise RequestError(f"--template {template!r}: unknown. Valid: {', '.join(TEMPLATES)}.")
    chosen = byte_tokenizer() if tokenizer is None else load_tokenizer(tokenizer, "--tokenizer")
    return TemplateEncoder(TEMPLATES[template], chosen, image_token_id=image_token(chosen), image_tokens=image_tokens)


class _bar:  # noqa: N801  # reads as the function it is used as
    """A progress bar to call with (done, total)."""

    def __init__(self, name: str) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=log,
            disable=not log.is_terminal,
        )
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> "_bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


def _say(text: str) -> None:
    """A last line, once for all processes of a run."""
    from olivine.train.processes import is_first

    if is_first():
        log.print(text, markup=False, highlight=False)


def _metrics(metrics: Any) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _quiet_libraries() -> None:
    """Keep transformers' advice about torchvision and its loading bars out of a user's terminal."""
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


__all__ = ["Recipe", "app", "main"]
