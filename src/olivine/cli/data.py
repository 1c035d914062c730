"""`olivine data`: look at and check training data, convert easy-VQA.

Readers and templates are `data`'s.
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
from olivine.recipe import MarkRule

app = OnceTyper(no_args_is_help=True, help="Look at and check training data; convert easy-VQA.")


@app.command("check")
def data_check(
    dataset: Annotated[Path, typer.Argument(help="A LLaVA JSON file, .tar shards, or a Hugging Face dataset on disk.")],
    images: Annotated[Path | None, typer.Option(help="Image root of a JSON file.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Decode and fit every image, tokenise every sample.")] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer (folder or hub id), to find samples too long. Full: default bytes.")
    ] = None,
    template: Annotated[str, typer.Option(help="Chat template for that.")] = "gemma",
    turns: Annotated[
        str, typer.Option(help="together or independent, as the recipe's data source has it.")
    ] = "together",
    marks: Annotated[str, typer.Option(help="front or in-place, as the recipe's data source has it.")] = "front",
    image_tokens: Annotated[int, typer.Option(help="Tokens an image takes.")] = 576,
    max_length: Annotated[int, typer.Option(help="Longest sample, in tokens.")] = 2048,
    image_size: Annotated[int, typer.Option(min=1, help="Full: side of the tower's input, in pixels.")] = 336,
    image_fit: Annotated[str, typer.Option(help="Full: pad, crop, squash or letterbox.")] = "pad",
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one a processor.")] = 0,
    journal: Annotated[
        Path | None, typer.Option(help="Full: what is done is kept here; default: a hidden file beside the data set.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Say what is missing, broken, empty or too long; no data are changed. Exits with 1 if nothing can be trained on.

    Structure, paths and image headers are quick. --full runs training's own code over every image (each once) and every
    sample; killed and run again, it repeats nothing.

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
    # A log file has no use for frames, nor for the empty line that they leave.
    shown = bars([READING, DECODING_IMAGES, TOKENISING]) if log.is_terminal else nullcontext(no_progress)
    with shown as progress:
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
    dataset: Annotated[Path, typer.Argument(help="A LLaVA JSON file.")],
    item: Annotated[str, typer.Option(help="The item's id, or its place in the file as #N.")] = "#0",
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer (folder or hub id); default: bytes.")] = None,
    template: Annotated[str, typer.Option(help="Chat template.")] = "gemma",
    image_tokens: Annotated[int, typer.Option(help="Tokens an image takes.")] = 576,
    turns: Annotated[str, typer.Option(help="together or independent.")] = "together",
    marks: Annotated[str, typer.Option(help="front or in-place: where a single image's mark goes.")] = "front",
) -> None:
    """Show one sample as the model sees it: supervised tokens in green, all others grey.

    Example: olivine data show data/easy-vqa/instructions.json --item train-7
    """
    from olivine.data.sample_view import show

    _require_one_of("--marks", marks, get_args(MarkRule))
    console = PlainConsole(soft_wrap=True, highlight=False)
    encoder = _encoder(tokenizer, template, image_tokens)
    show(dataset, item, encoder, turns, console, marks=cast(MarkRule, marks))


@app.command("easy-vqa")
def data_easy_vqa(
    target: Annotated[Path, typer.Argument(help="The folder to write.")] = Path("data/easy-vqa"),
    source: Annotated[Path | None, typer.Option(help="A folder of easy-VQA; default: the installed package.")] = None,
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
    """CLIP's normalisation: what it is decides nothing about which images can be read."""
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
