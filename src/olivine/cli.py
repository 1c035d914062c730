"""The front door: arguments in, the rooms called, one clear last line; no logic of its own.

JSON goes to stdout and nothing else does under `--json`; progress and logs go to stderr.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
world_app = typer.Typer(no_args_is_help=True, help="The embedded world: write its data and benchmarks, look at them.")
app.add_typer(world_app, name="world")

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


_JudgeUrl = Annotated[
    str | None, typer.Option(help="An OpenAI-compatible endpoint that grades (MM-Vet, MMVP, HallusionBench).")
]
_JudgeModel = Annotated[
    str | None, typer.Option(help="The judge's model (key: OLIVINE_JUDGE_KEY), or rule: no judge, but found elements.")
]
_JudgePrompt = Annotated[Path | None, typer.Option(help="A file with your own wording for the judge.")]
_JudgeRuns = Annotated[int | None, typer.Option(help="How often every answer is graded (MM-Vet).")]
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
    questions: Annotated[Path | None, typer.Option(help="A separate question file (VQAv2's).")] = None,
    judge_url: _JudgeUrl = None,
    judge_model: _JudgeModel = None,
    judge_prompt: _JudgePrompt = None,
    judge_runs: _JudgeRuns = None,
    as_json: _Json = False,
) -> None:
    """Answer benchmark questions and score the answers; under torchrun the pictures are shared out.

    Example: olivine evaluate runs/easy-vqa --benchmarks exact-match --data data/easy-vqa
    """
    from olivine.evaluate import benchmarks as known
    from olivine.evaluate.processes import joined
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
    made = known.get_all(chosen, questions=questions, **options)
    vlm = load(folder)
    vlm.model.to(_device())
    summaries = []
    with joined() as processes:
        for benchmark in made:
            place = data / benchmark.name if (data / benchmark.name).is_dir() else data
            target = base / (benchmark.name + (f"-{control}" if control else ""))
            wanted = Evaluation(benchmark, place, images, target, str(folder), control, prompt, variant)
            with _bar(benchmark.name, shown=processes.rank == 0) as bar:
                score = run(vlm, folder, wanted, bar, processes)
            summaries.append(score.summary())
            if processes.rank == 0:
                log.print(f"{benchmark.name}: {_metrics(score.metrics)} -> {target}", highlight=False)
        if as_json and processes.rank == 0:
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
        typer.echo(json.dumps({**result.summary(), **chosen.judged_by(result.variant)}))
        return
    log.print(f"{result.benchmark} ({result.variant}), {len(result.items):,} questions", highlight=False)
    if result.missing:
        log.print(f"{len(result.missing):,} without an answer (first: {result.missing[0]!r})", markup=False)
    for name, value in result.metrics.items():
        typer.echo(f"{name}\t{value:.4f}")


def _judging(url: str | None, model: str | None, folder: Path, prompt: Path | None, runs: int | None) -> dict[str, Any]:
    """The options of a benchmark that a judge grades; replies are kept in `folder`, so that a rerun costs nothing."""
    from olivine.evaluate.judge import Judge
    from olivine.evaluate.rule_judge import RuleJudge

    if model == "rule" and url is None:
        return {"judge": RuleJudge(), "judge_prompt": prompt, "runs": runs}
    if (url is None) != (model is None):
        raise RequestError("--judge-url and --judge-model go together; give both, or neither.")
    judge = None if url is None or model is None else Judge(url, model, folder / "judge-cache")
    return {"judge": judge, "judge_prompt": prompt, "judge_runs": runs}


@app.command()
def ablate(
    study: Annotated[Path | None, typer.Argument(help="A study in YAML, or the directory of one.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show steps and costs; run nothing.")] = False,
    device: Annotated[str, typer.Option(help="What the plan's hours are for: cpu, h100, a100 and others.")] = "h100",
    launcher: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    against: Annotated[
        str | None, typer.Option(help="A published table to compare with: paper. Alone: show its effects.")
    ] = None,
) -> None:
    """Run a study: every cell, then the effect of every axis with its interval, in a report.

    Goes on where it stopped; steps that cells share are run once.

    Example: olivine ablate recipes/studies/llava-gemma.yaml --plan --device h100
    """
    from olivine.ablate.published import table

    published = table(against) if against is not None else None
    if study is None:
        if published is None:
            raise RequestError("STUDY: missing. Give a study's YAML (recipes/studies/), or --against paper.")
        _show_published(published)
        return
    from olivine.ablate.run import carry_out, plan_study, report

    planned = plan_study(study)
    if plan:
        from olivine.ablate.show import plan_lines

        for line in plan_lines(planned, device):
            typer.echo(line)
        return
    from olivine.ablate.show import StepLines

    failures = carry_out(planned, study, log, StepLines(planned, log), launcher)
    for failure in failures:
        log.print(f"[red]failed:[/red] {escape(failure.step.key)}: {escape(failure.reason)}", highlight=False)
    page = report(planned, published)
    if failures:
        log.print(f"{len(failures)} steps failed; a report of the others: {page}", highlight=False)
        raise typer.Exit(1)
    log.print(f"done: {page}", highlight=False)


@app.command("report")
def report_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's directory or its YAML.")],
    against: Annotated[str | None, typer.Option(help="A published table to compare with: paper.")] = None,
) -> None:
    """Write a study's report anew from what is finished: report.html, report.md, results.csv, effects.csv.

    Example: olivine report runs/llava-gemma
    """
    from olivine.ablate.published import table
    from olivine.ablate.run import plan_study, report

    page = report(plan_study(study), table(against) if against is not None else None)
    log.print(f"done: {page}", highlight=False)


def _show_published(published: Any) -> None:
    from olivine.ablate.agreement import published_effects

    typer.echo(f"{published.title}: main effects. {published.source}")
    for effect in published_effects(published):
        typer.echo(f"{effect.change}\t{effect.label}\t{effect.effect:+.2f}")


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


@world_app.command("write")
def world_write(
    folder: Annotated[Path, typer.Argument(help="The folder to write.")] = Path("data/world"),
    seed: Annotated[int, typer.Option(help="Another seed is another world of the same kind.")] = 1,
    pictures: Annotated[int, typer.Option(help="Training pictures a stage; 0 writes benchmarks only.")] = 4000,
    share: Annotated[float, typer.Option(help="Size of the benchmarks, of the usual one.")] = 1.0,
    as_json: _Json = False,
) -> None:
    """Write training data and the eight benchmarks in their official layouts; what is there is left as it is.

    Example: olivine world write data/world
    """
    from olivine.evaluate.majority import guessing
    from olivine.world.benchmarks import write_all

    if pictures:
        from olivine.world import training_data

        with _bar("training data") as bar:
            training_data.write(folder / "training", seed, pictures, bar, workers=_cores())
    with _bar("benchmarks") as bar:
        record = write_all(folder, seed, share=share, measure=guessing, on_benchmark=bar)
    if as_json:
        typer.echo(json.dumps(record))
    for name, about in record["benchmarks"].items():
        guessed = dict(list(about["majority"].items())[:2])
        log.print(
            f"{name}: {about['questions']:,} questions on {about['pictures']:,} pictures; guessing gets "
            f"{_metrics(guessed)}",
            highlight=False,
        )
    log.print(f"done: {folder}", highlight=False)


@world_app.command("pretrain")
def world_pretrain(
    only: Annotated[str | None, typer.Option(help="Names, by commas. Default: all five.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to. Default: into the package itself.")] = None,
    seed: Annotated[int, typer.Option(help="The world's seed, and that of the weights.")] = 0,
    share: Annotated[float, typer.Option(help="Share of the usual steps, for a quick look.")] = 1.0,
    jobs: Annotated[int, typer.Option(help="How many at a time. Default: one on each processor.")] = 0,
) -> None:
    """Train the tiny backbones from random weights; goes on by itself where an earlier run stopped.

    Example: olivine world pretrain --only tiny-clip --output runs/backbones
    """
    from olivine.train.backbones.run import pretrain_all
    from olivine.world.backbones import BACKBONES, shipped

    names = [name for name in (only or ",".join(BACKBONES)).split(",") if name]
    for name in names:
        if name not in BACKBONES:
            raise RequestError(f"--only: no backbone {name!r}. Valid: {', '.join(BACKBONES)}.")
    target = output or shipped()
    with _bars(names) as on_step:
        figures = pretrain_all(names, target, seed=seed, share=share, jobs=jobs, on_step=on_step)
    for name, found in figures.items():
        told = {key: value for key, value in found.items() if key not in ("by_topic", "seconds", "threads")}
        log.print(f"{name}: {told}", highlight=False)
    log.print(f"done: {target}", highlight=False)


@world_app.command("page")
def world_page(
    target: Annotated[Path, typer.Argument(help="The page to write, in Markdown.")] = Path("docs/world.md"),
    seed: Annotated[int, typer.Option(help="The world's seed.")] = 1,
) -> None:
    """Write a page of example pictures with questions and answers.

    Example: olivine world page docs/world.md
    """
    import tempfile

    from olivine.evaluate import benchmarks as known
    from olivine.evaluate.gallery import Shelf, write_page
    from olivine.world.benchmarks import WRITERS, write_all
    from olivine.world.drawing import image
    from olivine.world.sampling import scenes

    about = (
        "Drawn scenes of 96 x 96 pixels, and what the eight benchmarks ask of them. This page is written by "
        f"`olivine world page {target.as_posix()} --seed {seed}`, the benchmarks by `olivine world write`. A number "
        "behind an answer is how many of ten annotators gave it."
    )
    with tempfile.TemporaryDirectory() as name, _bar("benchmarks") as bar:
        written = Path(name)
        write_all(written, seed, share=0.1, on_benchmark=bar)
        shelves = [Shelf(known.get(benchmark), written / benchmark) for benchmark in WRITERS]
        write_page(target, "The embedded world", about, [image(s) for s in scenes(seed, "page", 24)], shelves)
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

    def __init__(self, name: str, *, shown: bool = True) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=log,
            disable=not (shown and log.is_terminal),
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


@contextmanager
def _bars(names: list[str]) -> Iterator[Callable[[str, int, int], None]]:
    """One bar a name, moved by (name, done, in all)."""
    columns = (TextColumn("{task.description:>20}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=log, transient=True) as progress:
        tasks = {name: progress.add_task(name, total=None) for name in names}
        yield lambda name, done, total: progress.update(tasks[name], completed=done, total=total)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device() -> Any:
    """The GPU that torchrun gave to this process (the first without torchrun), or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _quiet_libraries() -> None:
    """Keep transformers' advice about torchvision and its loading bars out of a user's terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


__all__ = ["Recipe", "app", "main"]
