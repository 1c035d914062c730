"""`olivine export`; what it writes is decided in the conversion package."""

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


def _questions(benchmark: str, data: Path) -> list[tuple[Path, str]]:
    from olivine.errors import RequestError
    from olivine.evaluation import benchmarks

    chosen = benchmarks.get(benchmark)
    root = data / "images" if (data / "images").is_dir() else data
    questions = [(root / q.image, q.prompt) for q in chosen.read(data) if q.image and isinstance(q.image, str)]
    if not questions:
        raise RequestError(f"--data: {data}: {benchmark} has no question with one image there.")
    return questions
