"""`olivine explain`; methods and measures are in the explanation package."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from olivine.cli.evaluation import writable
from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Bar, Json, echo, log, selected_device
from olivine.errors import RequestError
from olivine.locks import exclusive_lock

if TYPE_CHECKING:
    from olivine.explanation.explainer import Explainer
    from olivine.explanation.methods.base import Method

app = OnceTyper()


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder or a run directory.")],
    other_model: Annotated[
        Path | None, typer.Argument(metavar="[OTHER]", help="A second model: where the two disagree, and why.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="The image of one question.")] = None,
    question: Annotated[str | None, typer.Option(help="The question about it.")] = None,
    other_image: Annotated[
        Path | None, typer.Option(help="An image to compare the answer's probability with. Default: a plain one.")
    ] = None,
    token: Annotated[
        int | None, typer.Option(help="Which of the answer's tokens to explain, from 0. Default: 0.")
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Explain every word of the answer.")] = False,
    benchmark: Annotated[str | None, typer.Option(help="Measure the methods on this benchmark's questions.")] = None,
    data: Annotated[Path | None, typer.Option(help="The benchmark's official files.")] = None,
    images: Annotated[Path | None, typer.Option(help="Image root, if the images are not beside the data.")] = None,
    limit: Annotated[int, typer.Option(help="Most questions to use, spread over the images.")] = 200,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated methods, or all. Default: integrated-gradients; with --benchmark, all."),
    ] = None,
    baseline: Annotated[
        Literal["mean", "blank", "zero"],
        typer.Option(help="What replaces a removed image token: the image's mean token, a plain image's, zeros."),
    ] = "mean",
    randomised: Annotated[
        int, typer.Option(help="Questions whose maps are also made with random weights (--benchmark); 0: none.")
    ] = 100,
    fit_images: Annotated[
        Path | None, typer.Option(help="Folder of unlabelled images to fit linear maps on (two models).")
    ] = None,
    fit_limit: Annotated[int, typer.Option(help="Most images to fit on (two models).")] = 400,
    plan: Annotated[bool, typer.Option("--plan", help="Print what the methods take, and run none.")] = False,
    image_tokens: Annotated[
        int | None, typer.Option(help="Image tokens that --plan assumes. Default: the model's own.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Output directory. Default: explanation, beside the model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which image tokens an answer depends on, and measure how far such maps can be trusted.

    With one image and question: an overlay, a page and JSON. With a benchmark: a table of methods, against random
    orders, ground truth and random weights. With two models: where they disagree, and which module is to blame.

    Example: olivine explain runs/demo/quick --image scene.png --question "What colour is the car?"
    """
    from olivine.explanation.methods.registry import chosen_methods, compared_names
    from olivine.training.run import find_checkpoint

    single = image is not None or question is not None
    _check_request(single, image, question, benchmark, data, other_model, plan, token, words)
    folder = find_checkpoint(model)
    selected = chosen_methods(
        methods, compared_names() if plan or (benchmark and other_model is None) else ("integrated-gradients",)
    )
    target = output or (folder.parent if folder.name == "checkpoint" else folder) / "explanation"
    if plan:
        _plan(folder, selected, image_tokens, as_json)
    elif other_model is not None:
        assert benchmark is not None
        assert data is not None
        both = (folder, find_checkpoint(other_model))
        _two_models(both, selected, benchmark, data, images, limit, fit_images, fit_limit, target, as_json)
    elif benchmark is not None:
        assert data is not None
        _measure(folder, selected, benchmark, data, images, limit, baseline, randomised, target, as_json)
    else:
        assert image is not None
        assert question is not None
        explainer = _explainer(folder, baseline)
        _one(explainer, folder, image, question, other_image, selected, None if words else token or 0, target, as_json)


def _check_request(
    single: bool,
    image: Path | None,
    question: str | None,
    benchmark: str | None,
    data: Path | None,
    other_model: Path | None,
    plan: bool,
    token: int | None,
    words: bool,
) -> None:
    if words and token is not None:
        raise RequestError("--words and --token: give one of them.")
    if plan:
        return
    if single == (benchmark is not None):
        raise RequestError("give either --image with --question, or --benchmark with --data.")
    if single and (image is None or question is None):
        raise RequestError("--image and --question belong together: give both.")
    if benchmark is not None and data is None:
        raise RequestError("--benchmark needs --data: the benchmark's official files.")
    if not single and (words or token is not None):
        raise RequestError("--words, --token: for one image only; over a benchmark the first token is explained.")
    if single and other_model is not None:
        raise RequestError("two models are compared over a benchmark: give --benchmark and --data.")


def _explainer(folder: Path, baseline: Literal["mean", "blank", "zero"], random_weights: bool = False) -> "Explainer":
    from olivine.explanation.explainer import Explainer
    from olivine.explanation.randomised import randomise
    from olivine.model.checkpoint import load

    vlm = load(folder)
    if random_weights:
        randomise(vlm)
    vlm.model.to(selected_device())
    return Explainer(vlm, baseline=baseline)


def _one(
    explainer: "Explainer",
    folder: Path,
    image: Path,
    question: str,
    other_image: Path | None,
    methods: "list[Method]",
    token: int | None,
    target: Path,
    as_json: bool,
) -> None:
    from olivine.data.images import open_image
    from olivine.explanation.one_answer import as_json as plain
    from olivine.explanation.one_answer import explain as run
    from olivine.explanation.one_answer import write_explanation

    opened = open_image(image)
    other = None if other_image is None else open_image(other_image)
    found = run(explainer, opened, question, methods, token=token, other=other)
    with writable(target):
        page = write_explanation(found, str(folder), target)[0]
    if as_json:
        echo(json.dumps(plain(found, str(folder))))
    log.print(f"answer: {found.answer}", markup=False, highlight=False)
    log.print(f"done: {page}", markup=False, highlight=False)


def _measure(
    folder: Path,
    methods: "list[Method]",
    benchmark: str,
    data: Path,
    images: Path | None,
    limit: int,
    baseline: Literal["mean", "blank", "zero"],
    randomised: int,
    target: Path,
    as_json: bool,
) -> None:
    from olivine.evaluation import benchmarks
    from olivine.explanation.method_table import method_table
    from olivine.explanation.over_benchmark import Measurement, measure_methods
    from olivine.explanation.table_lines import table_lines
    from olivine.files import write_json

    chosen = benchmarks.get(benchmark)
    explainer = _explainer(folder, baseline)
    random_weights = _explainer(folder, baseline, random_weights=True) if randomised else None
    requested = Measurement(chosen, data, images, target / benchmark, limit, methods, randomised)
    with writable(target), exclusive_lock(requested.folder), Bar(benchmark) as bar:
        rows = measure_methods(explainer, random_weights, folder, requested, bar)
        table = {"model": str(folder), "benchmark": benchmark, "baseline": baseline, **method_table(rows)}
        write_json(requested.folder / "methods.json", table)
    if as_json:
        echo(json.dumps(table))
    else:
        for line in table_lines(table):
            echo(line)
    log.print(f"done: {requested.folder / 'methods.json'}", markup=False, highlight=False)


def _plan(folder: Path, methods: "list[Method]", image_tokens: int | None, as_json: bool) -> None:
    from dataclasses import asdict

    from olivine.explanation.work_estimate import estimate_methods
    from olivine.model.checkpoint import load

    vlm = load(folder)
    vlm.model.to(selected_device())
    tokens = image_tokens or vlm.image_tokens
    found = estimate_methods(vlm, methods, tokens)
    if as_json:
        echo(json.dumps({"image_tokens": tokens, "methods": [asdict(one) for one in found]}))
        return
    weights = sum(weight.numel() * weight.element_size() for weight in vlm.model.parameters())
    echo(f"one token explained, {tokens} image tokens; beside {weights / 1e9:.2f} GB of weights:")
    for one in found:
        passes = f"{one.forwards} forward, {one.backwards} forward and backward"
        echo(f"{one.name:26}  {one.seconds:9.2f} s  {one.bytes / 1e9:6.2f} GB  {passes}")


def _two_models(
    folders: tuple[Path, Path],
    methods: "list[Method]",
    benchmark: str,
    data: Path,
    images: Path | None,
    limit: int,
    fit_images: Path | None,
    fit_limit: int,
    target: Path,
    as_json: bool,
) -> None:
    from olivine.evaluation import benchmarks
    from olivine.explanation.difference_split import split_lines
    from olivine.explanation.two_models import PAGE, Comparison, compare_models
    from olivine.model.checkpoint import load

    if fit_images is None:
        raise RequestError(
            "--fit-images: missing. Two models are compared through linear maps, which are fitted on unlabelled "
            "images: give a folder of them (training images, say), not those of the questions."
        )
    chosen, names = benchmarks.get(benchmark), (str(folders[0]), str(folders[1]))
    requested = Comparison(
        chosen, data, images, limit, fit_images, fit_limit, target / f"{benchmark}-two-models", names
    )
    models = [load(folder) for folder in folders]
    for vlm in models:
        vlm.model.to(selected_device())
    with writable(target), exclusive_lock(requested.folder), Bar(benchmark) as bar:
        found = compare_models(models[0], models[1], requested, methods[0], bar)
    if as_json:
        echo(json.dumps(found))
    else:
        for line in split_lines(found["split"], *names):
            echo(line)
    log.print(f"done: {requested.folder / PAGE}", markup=False, highlight=False)
