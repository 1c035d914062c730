"""`olivine demo`: the paper's question on the embedded world, from data to a report with intervals.

It does only what a user could type: write the world, run the study, report; with `--quick`, one configuration.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.resources import files
from pathlib import Path

import torch
import yaml
from rich.console import Console

from olivine.ablation.launch import Failure
from olivine.ablation.plan import Plan
from olivine.ablation.run import carry_out, plan_study, report
from olivine.ablation.terminal_lines import StepLines
from olivine.available_cpus import available_cpus
from olivine.evaluation import benchmarks
from olivine.evaluation.benchmarks.declaration import Metric
from olivine.evaluation.run import SCORES, Evaluation, evaluate
from olivine.files import read_json, write_text
from olivine.model.checkpoint import load as load_checkpoint
from olivine.recipe import load
from olivine.records import Control
from olivine.statistics import Configuration
from olivine.strict_yaml import read_yaml
from olivine.training.identity import CHECKPOINT
from olivine.training.run import train
from olivine.world import training_data
from olivine.world.benchmarks import write_all

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

#: The seed of the world that is drawn; the backbones were pretrained on another one.
SEED = 1
_IMAGES = 4000
_RECIPES = Path(str(files("olivine") / "recipes"))
#: The benchmarks of one configuration, with images and blind.
_BENCHMARKS_OF_ONE = ("gqa", "pope", "mme", "scienceqa")


def run(output: Path, *, quick: bool, console: Console, bar: Bar, jobs: int = 0) -> list[Failure]:
    """Write the world's data, then train and measure: the study's eight configurations, or one of them if `quick`.

    Finished steps are not repeated. Prints where the results are, and returns the failures.

    Args:
        output: the folder of data and results.
        quick: train one configuration instead of the study.
        console: the terminal.
        bar: makes a progress bar from its title.
        jobs: steps of the study at a time; 0 means one per GPU, or one per CPU up to four.
    """
    world = write_world(output / "world", bar)
    if quick:
        _one_configuration(world, output / "quick", console, bar)
        return []
    return _study(world, output, console, jobs or _jobs())


def write_world(world: Path, bar: Bar) -> Path:
    """Write the training data and the eight benchmarks into a folder, and return it."""
    with bar("training data") as on_image:
        training_data.write(world / "training", SEED, _IMAGES, on_image, workers=available_cpus())
    with bar("benchmarks") as on_benchmark:
        write_all(world, SEED, on_benchmark=on_benchmark)
    return world


def _sources(world: Path) -> dict[str, str]:
    """Return the overrides that point a recipe to the world's training data."""
    found = {}
    for source in ("captions", "instructions"):
        found[f"data.{source}.json"] = str(world / "training" / f"{source}.json")
        found[f"data.{source}.images"] = str(world / "training" / "images")
    return found


def _study(world: Path, output: Path, console: Console, jobs: int) -> list[Failure]:
    values = read_yaml(_RECIPES / "studies" / "world.yaml", "study")
    values["base"], values["output"] = str(_RECIPES / "world" / "base.yaml"), str(output / "study")
    for name, options in values["benchmarks"].items():
        folder = str(world / name)
        values["benchmarks"][name] = {**options, "data": folder} if isinstance(options, dict) else folder
    path = output / "study.yaml"
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    plan = plan_study(path, _sources(world))
    failures = carry_out(plan, path, console, StepLines(plan, console), jobs=jobs)
    page = report(plan)
    for failure in failures:
        console.print(f"failed: {failure.step.key}: {failure.reason}", markup=False, highlight=False)
    console.print(f"done: {page}", highlight=False)
    best = _best(plan)
    if best is not None:
        _say_how_to_try(best, console)
    return failures


def _best(plan: Plan) -> Path | None:
    """Return the model that ranks best over the benchmarks' first metrics; None if nothing has been evaluated."""
    by_benchmark: dict[str, dict[tuple[Configuration, int], float]] = {}
    for (configuration, seed, name, control), key in plan.evaluations.items():
        path = plan.steps[key].folder / SCORES
        if control is None and path.is_file():
            metrics = read_json(path)["metrics"]
            score = metrics[_headline(name, [metrics]).name]
            by_benchmark.setdefault(name, {})[configuration, seed] = score
    ranks: dict[tuple[Configuration, int], list[int]] = {}
    for scores in by_benchmark.values():
        for trained, score in scores.items():
            ranks.setdefault(trained, []).append(sum(other > score for other in scores.values()))
    whole = {trained: sum(r) for trained, r in ranks.items() if len(r) == len(by_benchmark)}
    if not whole:
        return None
    last = plan.steps[plan.stages[min(whole, key=lambda trained: whole[trained])][-1]]
    return last.folder / CHECKPOINT


def _jobs() -> int:
    # A process takes a gigabyte, which a laptop with many CPUs may not have for each.
    return torch.cuda.device_count() or min(available_cpus(), 4)


def _one_configuration(world: Path, folder: Path, console: Console, bar: Bar) -> None:
    sources = [f"{key}={value}" for key, value in _sources(world).items()]
    recipe = load(_RECIPES / "world" / "clip-s-aligned.yaml", [*sources, f"output={folder}"])
    checkpoint = train(recipe, console)
    vlm = load_checkpoint(checkpoint)
    controls: tuple[Control | None, ...] = (None, "blind")
    for name in _BENCHMARKS_OF_ONE:
        folders = {control: folder / "evaluation" / (name + (f"-{control}" if control else "")) for control in controls}
        scores = {}
        for control, target in folders.items():
            requested = Evaluation(benchmarks.get(name), world / name, None, target, str(checkpoint), control)
            with bar(f"{name} {control or ''}") as on_answer:
                scores[control] = evaluate(vlm, checkpoint, requested, on_answer).metrics
        metric = _headline(name, list(scores.values()))
        seen, blind = (metric.shown(scores[control][metric.name]) for control in controls)
        console.print(
            f"{benchmarks.find(name).declares.title} {metric.label}: {seen:.1f} {metric.unit} (blind: {blind:.1f})",
            markup=False,
            highlight=False,
        )
    console.print(f"done: {folder}", highlight=False)
    _say_how_to_try(checkpoint, console)


def _headline(name: str, scores: Sequence[Mapping[str, float]]) -> Metric:
    return benchmarks.find(name).declares.reported(None, scores)[0]


def _say_how_to_try(model: Path, console: Console) -> None:
    console.print(f"try it: olivine serve {shlex.quote(str(model))}", markup=False, highlight=False, soft_wrap=True)
