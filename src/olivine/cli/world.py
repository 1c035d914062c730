"""`olivine world`: write the embedded world's data, pretrain its backbones, write its example page.

Scenes and questions are in `world`, training in `world.pretraining`.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from olivine.available_cpus import available_cpus
from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Bar, Json, bars, echo, figures_line, log
from olivine.errors import RequestError

app = OnceTyper(
    no_args_is_help=True,
    help="Write the embedded world's data and benchmarks, pretrain its backbones.\n\n"
    "Example: olivine world write data/world",
)


@app.command("write")
def world_write(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")] = Path("data/world"),
    seed: Annotated[int, typer.Option(help="Random seed; another seed gives other scenes of the same kind.")] = 1,
    images: Annotated[int, typer.Option(help="Training images per stage; 0 writes only the benchmarks.")] = 4000,
    share: Annotated[float, typer.Option(help="Size of the benchmarks, as a fraction of the usual size.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Write training data and the eight benchmarks in their official layouts; files already there are kept.

    Example: olivine world write data/world
    """
    from olivine.evaluation import benchmarks as known
    from olivine.evaluation.majority_baseline import majority_baseline_answers
    from olivine.world.benchmarks import write_all

    if images:
        from olivine.world import training_data

        with Bar("training data") as bar:
            training_data.write(folder / "training", seed, images, bar, workers=available_cpus())
    with Bar("benchmarks") as bar:
        record = write_all(folder, seed, share=share, measure=majority_baseline_answers, on_benchmark=bar)
    if as_json:
        echo(json.dumps(record))
    for name, about in record["benchmarks"].items():
        baseline = known.find(name).declares.headlines(about["majority"])[:2]
        log.print(
            f"{name}: {about['questions']:,} questions on {about['images']:,} images; majority-class baseline: "
            f"{figures_line(baseline)}",
            highlight=False,
        )
    log.print(f"done: {folder}", highlight=False)


@app.command("pretrain")
def world_pretrain(
    only: Annotated[str | None, typer.Option(help="Comma-separated backbone names. Default: all five.")] = None,
    output: Annotated[Path | None, typer.Option(help="Output directory. Default: the installed package.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the scenes and of the initial weights.")] = 0,
    share: Annotated[float, typer.Option(help="Fraction of the usual number of steps, for a quick try.")] = 1.0,
    jobs: Annotated[int, typer.Option(help="Backbones to train in parallel; 0: one per core.")] = 0,
) -> None:
    """Train the tiny backbones, each from random weights or Net2Net-expanded from a smaller one; resume if stopped.

    Example: olivine world pretrain --only tiny-clip --output runs/backbones
    """
    from olivine.world.backbones import BACKBONES, shipped
    from olivine.world.pretraining.run import pretrain_all

    names = [name for name in (only or ",".join(BACKBONES)).split(",") if name]
    for name in names:
        if name not in BACKBONES:
            raise RequestError(f"--only: no backbone {name!r}. Valid: {', '.join(BACKBONES)}.")
    target = output or shipped()
    with bars(names) as on_step:
        figures = pretrain_all(names, target, seed=seed, share=share, jobs=jobs, on_step=on_step)
    for name, found in figures.items():
        omitted = ("by_topic", "seconds", "threads")
        figures_line = {key: value for key, value in found.items() if not key.startswith(omitted)}
        log.print(f"{name}: {figures_line}", highlight=False)
    log.print(f"done: {target}", highlight=False)


@app.command("page")
def world_page(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Markdown file to write.")] = Path("docs/world.md"),
    seed: Annotated[int, typer.Option(help="Random seed of the scenes.")] = 1,
) -> None:
    """Write a page of example images with questions and answers.

    Example: olivine world page docs/world.md
    """
    import tempfile

    from olivine.evaluation import benchmarks as known
    from olivine.evaluation.example_page import Shelf, write_page
    from olivine.world.benchmarks import WRITERS, write_all
    from olivine.world.drawing import image
    from olivine.world.sampling import sample_scenes

    about = (
        "Drawn scenes of 96 x 96 pixels, and what the eight benchmarks ask about them. This page is written by "
        f"`olivine world page {target.as_posix()} --seed {seed}`, the benchmarks by `olivine world write`. The number "
        "after an answer says how many of ten annotators gave it."
    )
    with tempfile.TemporaryDirectory() as name, Bar("benchmarks") as bar:
        written = Path(name)
        write_all(written, seed, share=0.1, on_benchmark=bar)
        shelves = [Shelf(known.get(benchmark), written / benchmark) for benchmark in WRITERS]
        write_page(target, "The embedded world", about, [image(s) for s in sample_scenes(seed, "page", 24)], shelves)
    log.print(f"done: {target}", highlight=False)
