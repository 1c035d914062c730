"""`olivine data`: inspect and check training data, convert a table of questions and easy-VQA.

Readers and templates are in `data`.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Bar, bars, echo, log
from olivine.console import PlainConsole
from olivine.errors import RequestError
from olivine.records import MarkRule

app = OnceTyper(
    no_args_is_help=True,
    help="Inspect and check training data; convert a table of questions, or easy-VQA.\n\n"
    "Example: olivine data check data/easy-vqa/instructions.json --images data/easy-vqa/images",
)


@app.command("check")
def data_check(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="A LLaVA JSON file, .tar shards, or a Hugging Face dataset saved to disk."
        ),
    ],
    images: Annotated[Path | None, typer.Option(help="Image root for a JSON file.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Decode and resize every image, and tokenize every sample.")
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Tokenizer (folder or hub id) for measuring sample lengths. With --full, default: bytes."),
    ] = None,
    template: Annotated[str, typer.Option(help="Chat template for measuring sample lengths.")] = "gemma",
    turns: Annotated[str, typer.Option(help="together or independent, as in the recipe's data source.")] = "together",
    marks: Annotated[str, typer.Option(help="front or in-place, as in the recipe's data source.")] = "front",
    image_tokens: Annotated[int, typer.Option(help="Tokens per image.")] = 576,
    max_length: Annotated[int, typer.Option(help="Maximum sample length, in tokens.")] = 2048,
    image_size: Annotated[
        int, typer.Option(min=1, help="With --full: side of the vision tower's input, in pixels.")
    ] = 336,
    image_fit: Annotated[str, typer.Option(help="With --full: pad, crop, squash or letterbox.")] = "pad",
    jobs: Annotated[int, typer.Option(min=0, help="Number of processes; 0: one per core.")] = 0,
    journal: Annotated[
        Path | None,
        typer.Option(help="With --full: file that records progress. Default: a hidden file beside the data set."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Report what is missing, broken, empty or too long; no data are changed. Exits with 1 if no sample is trainable.

    Checking structure, paths and image headers is quick. --full runs the training code over every image (once each) and
    every sample; if it is killed, the same command resumes without repeating finished work.

    Example: olivine data check data/easy-vqa/instructions.json --images data/easy-vqa/images
    """
    from olivine.data.check import DECODING_IMAGES, READING, TOKENISING, FullCheck, check
    from olivine.data.check_jobs import LengthLimit
    from olivine.data.check_work import no_progress

    _require_one_of("--turns", turns, ("together", "independent"))
    _require_one_of("--marks", marks, get_args(MarkRule))
    limit = None
    if tokenizer is not None or full:
        encoder = _encoder(tokenizer, template, image_tokens)
        limit = LengthLimit(encoder, max_length, independent=turns == "independent")
    thorough = FullCheck(_transform(image_size, image_fit), journal) if full else None
    # Progress bars would fill a log file with frames and an empty line.
    display = bars([READING, DECODING_IMAGES, TOKENISING]) if log.is_terminal else nullcontext(no_progress)
    with display as progress:
        rule = cast(MarkRule, marks)
        report = check(dataset, images, limit, progress, marks=rule, full=thorough, jobs=jobs or None)
    if as_json:
        echo(json.dumps(report.summary()))
    else:
        for line in report.lines():
            echo(line)
    if not report.trainable:
        raise typer.Exit(1)


@app.command("show")
def data_show(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A LLaVA JSON file.")],
    item: Annotated[str, typer.Option(help="The item's id, or its index in the file as #N, counted from 0.")] = "#0",
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer (folder or hub id). Default: bytes.")] = None,
    template: Annotated[str, typer.Option(help="Chat template.")] = "gemma",
    marks: Annotated[str, typer.Option(help="front or in-place, as in the recipe's data source.")] = "front",
    image_tokens: Annotated[int, typer.Option(help="Tokens per image.")] = 576,
    turns: Annotated[str, typer.Option(help="together or independent, as in the recipe's data source.")] = "together",
) -> None:
    """Show one sample as the model sees it, with supervised tokens in green and all others in grey.

    Example: olivine data show data/easy-vqa/instructions.json --item train-7
    """
    from olivine.data.sample_view import show

    _require_one_of("--marks", marks, get_args(MarkRule))
    console = PlainConsole(soft_wrap=True, highlight=False)
    encoder = _encoder(tokenizer, template, image_tokens)
    show(dataset, item, encoder, turns, console, marks=cast(MarkRule, marks))


@app.command("csv")
def data_csv(
    table: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV (UTF-8, commas) with the columns image, question, answer.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")],
    images: Annotated[Path, typer.Option(help="Root of the image paths in the table.")],
    held_out: Annotated[
        int, typer.Option(min=0, help="Hold out whole images with at least this many questions; 0 holds out none.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of held-out images.")] = 0,
) -> None:
    """Write a table of questions as training data and held-out questions; bad lines are named, and nothing is written.

    OUT gets train.json for recipes, and questions.jsonl for: olivine evaluate --benchmarks exact-match --data OUT.

    Example: olivine data csv my.csv --images photos --held-out 60 data/own
    """
    from olivine.data.csv_questions import convert

    found = convert(table, images, target, held_out=held_out, seed=seed)
    log.print(
        f"train: {found.training:,} questions on {found.training_images:,} images; held out: {found.held_out:,} on "
        f"{found.held_out_images:,}",
        highlight=False,
    )
    log.print(f"done: {target}", highlight=False)


@app.command("easy-vqa")
def data_easy_vqa(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to write.")] = Path("data/easy-vqa"),
    source: Annotated[
        Path | None, typer.Option(help="Folder with easy-VQA's files. Default: the installed easy-vqa package.")
    ] = None,
) -> None:
    """Write easy-VQA as LLaVA JSON: captions, instructions and test questions.

    Example: olivine data easy-vqa data/easy-vqa
    """
    from olivine.data.easy_vqa import convert, package_folder

    with Bar("easy-VQA") as bar:
        convert(source or package_folder(), target, bar)
    log.print(f"done: {target}", highlight=False)


def _require_one_of(option: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise RequestError(f"{option} {value!r}: expected {', '.join(valid[:-1])} or {valid[-1]}.")


def _transform(size: int, fit: str) -> Any:
    """Return a transform with CLIP's normalisation, which has no influence on which images can be read."""
    from olivine.data.images import ImageTransform

    _require_one_of("--image-fit", fit, ("pad", "crop", "squash", "letterbox"))
    return ImageTransform(size, fit, (0.481, 0.458, 0.408), (0.269, 0.261, 0.276))  # type: ignore[arg-type]  # one of them


def _encoder(tokenizer: str | None, template: str, image_tokens: int) -> Any:
    from olivine.data.encoding import TemplateEncoder
    from olivine.data.template import OWN, TEMPLATE_NAMES, TEMPLATES
    from olivine.data.vocabulary import byte_tokenizer
    from olivine.model.build import image_token, load_tokenizer
    from olivine.model.extra_tokens import make_markers_special
    from olivine.model.own_template import own_template

    if template not in TEMPLATE_NAMES:
        raise RequestError(f"--template {template!r}: unknown. Valid: {', '.join(TEMPLATE_NAMES)}.")
    chosen = byte_tokenizer() if tokenizer is None else load_tokenizer(tokenizer, "--tokenizer")
    token_id = image_token(chosen)
    written = own_template(chosen) if template == OWN else TEMPLATES[template]
    make_markers_special(chosen, written)
    return TemplateEncoder(written, chosen, image_token_id=token_id, image_tokens=image_tokens)
