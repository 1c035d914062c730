"""`olivine data`: look at and check training data, convert easy-VQA.

Readers and templates are `data`'s.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Bar, echo, log
from olivine.console import PlainConsole
from olivine.errors import RequestError

app = OnceTyper(no_args_is_help=True, help="Look at and check training data; convert easy-VQA.")


@app.command("check")
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
    with Bar("checking") as bar:
        report = check(dataset, images, limit, bar)
    if as_json:
        echo(json.dumps(report.summary()))
    else:
        for line in report.lines():
            echo(line)


@app.command("show")
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

    console = PlainConsole(soft_wrap=True, highlight=False)
    show(dataset, item, _encoder(tokenizer, template, image_tokens), turns, console)


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


def _encoder(tokenizer: str | None, template: str, image_tokens: int) -> Any:
    from olivine.data.encoding import TemplateEncoder
    from olivine.data.template import TEMPLATES
    from olivine.data.vocabulary import byte_tokenizer
    from olivine.model.build import image_token, load_tokenizer

    if template not in TEMPLATES:
        raise RequestError(f"--template {template!r}: unknown. Valid: {', '.join(TEMPLATES)}.")
    chosen = byte_tokenizer() if tokenizer is None else load_tokenizer(tokenizer, "--tokenizer")
    return TemplateEncoder(TEMPLATES[template], chosen, image_token_id=image_token(chosen), image_tokens=image_tokens)
