"""`olivine evaluate`, `olivine score` and `olivine benchmarks`.

Answering and scoring themselves are in `evaluation`.
"""

import errno
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from olivine.cli.once import OnceCommand, OnceTyper
from olivine.cli.terminal import Bar, Json, echo, figures_line, log, selected_device
from olivine.distributed import init_distributed, is_first_process
from olivine.errors import RequestError, RunError
from olivine.locks import exclusive_lock
from olivine.records import MissingRule, Score

app = OnceTyper()
#: Shares of questions take unequal time; torchrun itself ends the others when one process dies.
_LONGEST_WAIT = timedelta(days=30)
#: Errors of the system that mean: nothing can be written there.
_UNWRITABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
}
_JudgeUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible endpoint of the judge, for benchmarks that have one.")
]
_JudgeModel = Annotated[
    str | None,
    typer.Option(
        help="The judge's model (API key: OLIVINE_JUDGE_KEY), or rule: score by matched reference elements, no judge."
    ),
]
_JudgePrompt = Annotated[Path | None, typer.Option(help="File with your own prompt for the judge.")]
_JudgeRuns = Annotated[int | None, typer.Option(help="How many times a judge grades each answer, where it may vary.")]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A benchmark-specific option; `olivine score NAME --help` lists them."
    ),
]
_Questions = Annotated[Path | None, typer.Option(help="A separate question file, where the benchmark has one.")]
#: What a rule did with questions without an answer.
_MISSING: dict[MissingRule, str] = {
    "wrong": "counted as wrong",
    "excluded": "in no figure",
    "partly excluded": "counted as wrong in the total, but not in every group",
    "refused": "refused",
}
_Variant = Annotated[
    str | None, typer.Option(help="Scoring variant; `olivine score NAME --help` lists them. Default: the official one.")
]


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A model folder or a run directory.")],
    data: Annotated[
        Path, typer.Option(help="The benchmark's official files (file or folder), or a folder with one per benchmark.")
    ],
    benchmarks: Annotated[
        str | None, typer.Option(help="Comma-separated benchmark names. Default: those of the run's recipe.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Image root, if the images are not beside the data.")] = None,
    output: Annotated[Path | None, typer.Option(help="Output directory. Default: beside the checkpoint.")] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Ask every question without its image (text-only baseline).")
    ] = False,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Ask every question with another question's image.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="Prompt wording; `olivine score NAME --help` lists them.")] = None,
    variant: _Variant = None,
    questions: Annotated[
        Path | None, typer.Option(help="A separate question file, where the benchmark has one.")
    ] = None,
    options_given: _Set = None,
    judge_url: _JudgeUrl = None,
    judge_model: _JudgeModel = None,
    judge_prompt: _JudgePrompt = None,
    judge_runs: _JudgeRuns = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Remove answers by another model (or to other questions) from the output directory."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer benchmark questions and score the answers; under torchrun, images are distributed over processes.

    Example: olivine evaluate runs/easy-vqa --benchmarks exact-match --data data/easy-vqa
    """
    from olivine.evaluation import benchmarks as known
    from olivine.evaluation.run import Evaluation
    from olivine.evaluation.run import evaluate as run
    from olivine.model.checkpoint import load
    from olivine.records import Control
    from olivine.training.run import find_checkpoint, recorded_benchmarks

    if blind and shuffled:
        raise RequestError("--blind and --shuffled: give one of them.")
    control: Control | None = "blind" if blind else "shuffled" if shuffled else None
    folder = find_checkpoint(checkpoint)
    selected = [name for name in (benchmarks or "").split(",") if name] or recorded_benchmarks(checkpoint)
    if not selected:
        raise RequestError(f"--benchmarks: missing. Valid: {', '.join(known.names())}.")
    base = output or (folder.parent if folder.name == "checkpoint" and checkpoint != folder else folder) / "evaluation"
    options = _judging(judge_url, judge_model, base, judge_prompt, judge_runs)
    made = known.get_all(selected, questions=questions, **_own_options(selected, options_given), **options)
    targets = [base / (benchmark.name + (f"-{control}" if control else "")) for benchmark in made]
    summaries = []
    with ExitStack() as stack:
        if is_first_process():  # before the expense of loading the model
            for target in dict.fromkeys(targets):
                stack.enter_context(writable(target))
                stack.enter_context(exclusive_lock(target))
        vlm = load(folder)
        vlm.model.to(selected_device())
        processes = stack.enter_context(init_distributed(timeout=_LONGEST_WAIT, gpu_tensors=False))
        for benchmark, target in zip(made, targets, strict=True):
            files = data / benchmark.name if (data / benchmark.name).is_dir() else data
            requested = Evaluation(benchmark, files, images, target, str(folder), control, prompt, variant, replace)
            with Bar(benchmark.name, shown=processes.is_first) as bar:
                score = run(vlm, folder, requested, bar, processes)
            summaries.append(score.summary())
            if processes.is_first:
                figures = benchmark.declares.headlines(score.metrics, score.variant)
                log.print(f"{benchmark.name}: {figures_line(figures)} -> {target}", highlight=False)
                for line in notes(score):
                    log.print(line, markup=False, highlight=False)
        if as_json and processes.is_first:
            echo(json.dumps(summaries[0] if len(summaries) == 1 else summaries))


def notes(score: Score, *, lenient: bool = False) -> list[str]:
    """Return what to say beside a score's figures: what became of missing and of unread answers.

    Args:
        score: the score.
        lenient: whether the benchmark has the variant `lenient`, which reads more.
    """
    found = []
    if score.missing:
        found.append(
            f"{len(score.missing):,} without an answer (first: {score.missing[0]!r}): "
            f"{_MISSING[score.missing_rule]}; --missing says what else to do with them"
        )
    if score.unread:
        hint = "; --variant lenient reads more wordings" if lenient and score.variant != "lenient" else ""
        found.append(
            f"{len(score.unread):,} answers that the variant {score.variant!r} could not read (first: "
            f"{score.unread[0]!r}), scored as its rule says{hint}"
        )
    return found


class ScoreCommand(OnceCommand):
    """`olivine score`, whose help for a benchmark's name describes that benchmark."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as usual; for `NAME --help`, print the benchmark's description after the command's own help."""
        from olivine.evaluation import benchmarks as known
        from olivine.evaluation.benchmarks.described import describe

        named = [argument for argument in args if argument in known.names()]
        if "--help" in args and named:
            text = ctx.get_help()
            if text:
                echo(text)
            for line in describe(known.find(named[0])):
                echo(line)
            ctx.exit()
        return super().parse_args(ctx, args)


@app.command(cls=ScoreCommand)
def score(
    benchmark: Annotated[
        str, typer.Argument(metavar="NAME", help="The benchmark's name; `olivine benchmarks` lists them.")
    ],
    annotations: Annotated[
        Path, typer.Option(help="The benchmark's official questions or annotations: a file or folder.")
    ],
    answers: Annotated[Path, typer.Option(help="Answers in the benchmark's official format or LLaVA's JSON lines.")],
    variant: _Variant = None,
    questions: Annotated[
        Path | None, typer.Option(help="A separate question file, where the benchmark has one.")
    ] = None,
    missing: Annotated[
        Literal["official", "wrong", "refuse"],
        typer.Option(help="Questions without an answer: as the variant's rule says, wrong, or a reason to refuse."),
    ] = "official",
    choices: Annotated[Path | None, typer.Option(help="A separate choices file, where the benchmark has one.")] = None,
    grades: Annotated[Path | None, typer.Option(help="Grades to replay instead of asking a judge.")] = None,
    options_given: _Set = None,
    judge_url: _JudgeUrl = None,
    judge_model: _JudgeModel = None,
    judge_prompt: _JudgePrompt = None,
    judge_runs: _JudgeRuns = None,
    as_json: Json = False,
) -> None:
    """Score an answers file, produced by any model or tool.

    `olivine score NAME --help` lists a benchmark's variants, prompts and options.

    Example: olivine score pope --annotations coco_pope_random.json --answers answers.jsonl --json
    """
    from olivine.evaluation import benchmarks as known
    from olivine.evaluation.run import read_questions

    options = _judging(judge_url, judge_model, answers.parent, judge_prompt, judge_runs)
    selected = known.get(
        benchmark,
        questions=questions,
        choices=choices,
        grades=grades,
        **_own_options([benchmark], options_given),
        **options,
    )
    selected.missing = missing
    asked = read_questions(selected, annotations)
    with writable(answers.parent):
        result = selected.score(asked, selected.read_answers(answers, asked), variant)
    if as_json:
        echo(json.dumps({**result.summary(), **selected.judged_by(result.variant)}))
        return
    clusters = len({item.cluster for item in result.items})
    log.print(
        f"{selected.declares.title} ({result.variant}): {len(result.items):,} of {len(asked):,} questions scored, "
        f"clusters: {clusters:,} (one is one {selected.declares.cluster})",
        markup=False,
        highlight=False,
    )
    for line in notes(result, lenient="lenient" in selected.variants):
        log.print(line, markup=False, highlight=False)
    for name, figure, unit in selected.declares.shown(result.metrics, result.variant):
        echo("\t".join([name, f"{figure:.2f}", unit]))


@app.command("benchmarks")
def list_benchmarks(
    page: Annotated[Path | None, typer.Option(help="Write a Markdown page with everything about each.")] = None,
    as_json: Json = False,
) -> None:
    """List the benchmarks that can be scored, one line each; `olivine score NAME --help` describes one.

    Example: olivine benchmarks
    """
    from olivine.evaluation import benchmarks as known
    from olivine.evaluation.benchmarks import described
    from olivine.files import write_text

    found = [known.find(name) for name in known.names()]
    if page is not None:
        write_text(page, described.page(found))
        log.print(f"done: {page}", markup=False, highlight=False)
    elif as_json:
        echo(json.dumps([described.as_json(benchmark) for benchmark in found]))
    else:
        for benchmark in found:
            echo(described.one_line(benchmark))


def _own_options(names: list[str], given: list[str] | None) -> dict[str, Any]:
    """Return the values of `--set`, which applies to a single benchmark."""
    from olivine.evaluation import benchmarks as known
    from olivine.evaluation.benchmarks.options import parse_options

    if not given:
        return {}
    if len(names) != 1:
        raise RequestError(f"--set: applies to a single benchmark; {len(names)} are named. Evaluate them one by one.")
    return parse_options(known.find(names[0]), given)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn the system's write errors into one line that says what is kept and what to do.

    Raises:
        RunError: the disk is full or read-only, a file size limit is reached, or the folder is not writable.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise RunError(
            f"{error.filename or folder}: cannot be written ({error.strerror}). The answers and grades already written "
            "are kept. Free some space, or choose another folder (--output), and run the same command to resume."
        ) from None


def _judging(url: str | None, model: str | None, folder: Path, prompt: Path | None, runs: int | None) -> dict[str, Any]:
    """Return a judged benchmark's options; replies are cached in `folder`, so that a rerun costs nothing."""
    from olivine.evaluation.judge import Judge
    from olivine.evaluation.rule_judge import RuleJudge

    if model == "rule" and url is None:
        return {"judge": RuleJudge(), "judge_prompt": prompt, "judge_runs": runs}
    if (url is None) != (model is None):
        raise RequestError("--judge-url and --judge-model belong together: give both or neither.")
    judge = None if url is None or model is None else Judge(url, model, folder / "judge-cache")
    return {"judge": judge, "judge_prompt": prompt, "judge_runs": runs}
