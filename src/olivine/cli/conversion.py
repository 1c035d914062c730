"""`olivine import` and `olivine export`; what they write is decided in the conversion package."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Json, echo, log

app = OnceTyper()


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A model folder, the directory of a stage, or of a run.")
    ],
    to: Annotated[str, typer.Option("--to", help="transformers, transformers-4 (before 5.4), gguf or vllm.")],
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, float16, bfloat16; q8_0 for gguf. Default: as stored; float16 for gguf."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="The interpreter whose transformers the proof asks; needed for transformers-4.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Ask the first 20 questions of this benchmark, not of drawn images.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The benchmark's folder.")] = None,
    license_name: Annotated[str | None, typer.Option("--license", help="The model card's license field.")] = None,
    class_order: Annotated[
        Literal["last", "first"],
        typer.Option("--class-token", help="gguf: where llama.cpp's LLaVA graph has the class token; last since 2025."),
    ] = "last",
    force: Annotated[bool, typer.Option("--force", help="Keep an export whose proof fails.")] = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint for another runtime, with a model card; ask both sides the same 20 questions and compare.

    Example: olivine export runs/easy-vqa --to gguf --dtype q8_0 --output exported
    """
    from olivine.conversion.export import Export
    from olivine.conversion.export import export as run
    from olivine.conversion.export_samples import read_samples
    from olivine.errors import RequestError
    from olivine.training.run import find_checkpoint

    if (benchmark is None) != (data is None):
        raise RequestError("--benchmark and --data belong together.")
    samples = None
    if benchmark is not None and data is not None:
        samples = read_samples(_questions(benchmark, data))
    request = Export(find_checkpoint(checkpoint), to, output, dtype, python, samples, force, license_name, class_order)
    made = run(request)
    agreement = made.proof.summary() if made.proof else f"proof skipped: {made.skipped}"
    if as_json:
        proof = made.proof.as_json() if made.proof else None
        echo(json.dumps({"folder": str(made.folder), "proof": proof, "skipped": made.skipped or None}))
    log.print(agreement, markup=False, highlight=False)
    log.print(f"done: {made.folder}", markup=False, highlight=False)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A published model, downloaded.")],
    output: Annotated[Path, typer.Option(help="The model folder to write.")],
    base: Annotated[
        str | None, typer.Option(help="The language model that an adapter or a projector belongs to: folder or hub id.")
    ] = None,
    tower: Annotated[
        str | None, typer.Option(help="The vision tower, where FOLDER holds only its name: folder or hub id.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="The tokenizer, if not FOLDER's: folder or hub id.")] = None,
    fit: Annotated[
        Literal["pad", "crop", "squash", "letterbox"] | None,
        typer.Option(help="How images were made square in training."),
    ] = None,
    template: Annotated[str | None, typer.Option(help="The chat template of training: gemma, vicuna, ...")] = None,
    image_scale: Annotated[
        Literal["sqrt-hidden", "one"] | None,
        typer.Option(help="What Gemma multiplied image features by in training: sqrt-hidden before transformers 5.4."),
    ] = None,
    activation: Annotated[
        Literal["gelu", "gelu_pytorch_tanh"] | None, typer.Option(help="Gemma's activation in training.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16. Default: the language model's.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Questions of the proof. Default: 20, or 4 above a billion weights.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep an import whose proof fails or cannot be had.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a published LLaVA model into a checkpoint, repair what today's transformers breaks, and prove it.

    FOLDER is recognised by its content: LLaVA-1.5 (whole, LoRA, stage-1 projector), LLaVA-Gemma, llava-hf. The proof
    compares logits with the source computed as its own time did.

    Example: olivine import llava-gemma-2b --output imported
    """
    from olivine.conversion.importing import Import, import_model
    from olivine.conversion.published import ImportOptions

    def say(line: str) -> None:
        log.print(line, markup=False, highlight=False)

    options = ImportOptions(base, tower, tokenizer, fit, template, image_scale, activation)
    made = import_model(Import(folder, output, options, dtype, samples, force), say)
    if as_json:
        echo(json.dumps({"folder": str(made.folder), **made.as_json()}))
    lines = [f"repaired: {each.what} ({each.reason})" for each in made.repairs]
    lines += [f"not known: {each}" for each in made.unknown]
    lines.append(made.proof.summary() if made.proof else f"unproven: {made.unproven}")
    for line in [*lines, f"done: {made.folder}"]:
        say(line)


def _questions(benchmark: str, data: Path) -> list[tuple[Path, str]]:
    from olivine.errors import RequestError
    from olivine.evaluation import benchmarks

    chosen = benchmarks.get(benchmark)
    root = data / "images" if (data / "images").is_dir() else data
    questions = [(root / q.image, q.prompt) for q in chosen.read(data) if q.image and isinstance(q.image, str)]
    if not questions:
        raise RequestError(f"--data: {data}: {benchmark} has no question with one image there.")
    return questions
