"""`olivine demo`: the whole way once, from nothing to a score, on easy-VQA.

Only what every user could type: convert, train, evaluate.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from olivine.data.easy_vqa import convert, package_folder
from olivine.evaluate import benchmarks
from olivine.evaluate.run import Control, Evaluation, evaluate
from olivine.model.checkpoint import load as load_checkpoint
from olivine.recipe import load
from olivine.train.run import train

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

#: Fewer epochs: the score falls, the way stays the same.
_QUICK = ("stages.look.epochs=10", "stages.align.epochs=1", "stages.instruct.epochs=1")


def run(output: Path, *, quick: bool, console: Console, bar: Bar) -> None:
    """Convert easy-VQA, train the shipped recipe, answer the test questions, say what came out.

    Every step that is already done is not done again.
    """
    data = output / "data"
    if not (data / "questions.jsonl").is_file():
        with bar("easy-VQA") as on_picture:
            convert(package_folder(), data, on_picture)
    overrides = [f"output={output / ('quick' if quick else 'run')}", *(_QUICK if quick else ())]
    for source in ("captions", "instructions"):
        overrides += [f"data.{source}.json={data / f'{source}.json'}", f"data.{source}.images={data / 'images'}"]
    recipe = load(Path(str(files("olivine") / "recipes" / "easy-vqa.yaml")), overrides)
    checkpoint = train(recipe, console)
    scores: dict[str, Any] = {}
    controls: tuple[Control | None, ...] = (None, "blind")
    for control in controls:
        folder = recipe.run_directory / "evaluation" / ("exact-match" + (f"-{control}" if control else ""))
        wanted = Evaluation(benchmarks.get("exact-match"), data, None, folder, str(checkpoint), control)
        with bar(f"asked {control}" if control else "asked") as on_answer:
            scores[control or "seen"] = evaluate(load_checkpoint(checkpoint), checkpoint, wanted, on_answer)
    console.print(
        f"easy-VQA test: {scores['seen'].metrics['accuracy']:.2f} % of {len(scores['seen'].items):,} questions "
        f"(blind: {scores['blind'].metrics['accuracy']:.2f} %) -> {recipe.run_directory}",
        highlight=False,
    )
