"""The Python interface: what the command line does, as functions with results for programs.

No logic of its own; `import olivine` offers all of it without loading torch before the first call.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from olivine.errors import RequestError
from olivine.records import Answer, Control, Question, Score

if TYPE_CHECKING:
    from PIL.Image import Image

    from olivine.cost.estimate import Estimate
    from olivine.model.vlm import VisionLanguageModel
    from olivine.recipe import Recipe

__all__ = ["Model", "ablate", "evaluate", "load", "plan", "score", "train"]


class Model:
    """A trained model, ready to answer.

    Attributes:
        folder: the model folder that it was read from.
        vlm: the model itself, in evaluation mode.
    """

    def __init__(self, folder: Path, vlm: "VisionLanguageModel") -> None:
        self.folder, self.vlm = folder, vlm

    def answer(self, image: "str | Path | Image | None", question: str, *, max_new_tokens: int = 128) -> str:
        """Return the greedy answer to one question about one image, or about none.

        Args:
            image: a file, a PIL image, or None to ask without an image.
            question: the text of the user turn.
            max_new_tokens: longest answer, in tokens.

        Raises:
            DataError: the image cannot be read.
        """
        from olivine.model.generate import answer_one

        opened = Path(image) if isinstance(image, str) else image
        return answer_one(self.vlm, question, opened, max_new_tokens=max_new_tokens)

    def answers(self, questions: Sequence[Question], images: str | Path | None = None) -> list[Answer]:
        """Return the answers to many questions, in their order; each image is encoded once.

        Args:
            questions: what to ask; their `image` is relative to `images`.
            images: the root of the image paths.
        """
        from olivine.evaluation.engine import AnsweringEngine

        root = Path(images) if images is not None else None
        found = {answer.question_id: answer for answer in AnsweringEngine(self.vlm).answer(questions, root)}
        return [found[question.id] for question in questions]


def load(folder: str | Path, *, device: str | None = None) -> Model:
    """Load a model that Olivine trained.

    Args:
        folder: a model folder, the directory of a stage, or a run directory (its last stage is taken).
        device: where to put it, such as "cuda:0"; None takes the first GPU if there is one.

    Raises:
        RequestError: none of these, or the run is not finished.
    """
    import torch

    from olivine.model.checkpoint import load as read
    from olivine.training.run import find_checkpoint

    found = find_checkpoint(Path(folder))
    vlm = read(found)
    vlm.model.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    return Model(found, vlm)


def train(recipe: "str | Path | Recipe", *overrides: str, quiet: bool = False) -> Path:
    """Train all stages of a recipe, resuming where an earlier run stopped, and return the last stage's model folder.

    Args:
        recipe: a YAML file, the name of a shipped recipe, or a `Recipe`.
        overrides: as on the command line, such as "stages.align.lr=2e-3".
        quiet: print no progress and no messages. Warnings still go to the logger `olivine`, and Python prints those of
            a logger without handlers on stderr.

    Raises:
        RequestError: an unknown key or wrong value, or the run directory holds another run.
        RunError: training could not continue.
    """
    from olivine.console import stderr_console
    from olivine.training.run import train as run

    return run(_recipe(recipe, overrides), stderr_console(quiet=quiet))


def evaluate(
    model: str | Path | Model,
    benchmark: str,
    data: str | Path,
    *,
    output: str | Path | None = None,
    images: str | Path | None = None,
    control: Control | None = None,
    prompt: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Score:
    """Answer a benchmark's questions with a model and score the answers; existing answers are kept.

    Args:
        model: a loaded `Model`, or what `load` takes.
        benchmark: its name, as `olivine benchmarks` lists them.
        data: the benchmark's own files.
        output: where answers and scores go; None takes `evaluation/NAME` beside the model folder.
        images: the image root, if it is not beside the data.
        control: ask without images ("blind"), or with another question's image ("shuffled").
        prompt: the wording, by name.
        variant: the scoring, by name; None takes the official one.
        options: the benchmark's own options.

    Raises:
        RequestError, DataError, RunError: as for `olivine evaluate`.
    """
    from olivine.evaluation import benchmarks
    from olivine.evaluation.benchmarks.options import checked_options
    from olivine.evaluation.run import Evaluation
    from olivine.evaluation.run import evaluate as run

    loaded = model if isinstance(model, Model) else load(model)
    values = checked_options(benchmarks.find(benchmark), options or {}, f"{benchmark}: option")
    name = benchmark + (f"-{control}" if control else "")
    requested = Evaluation(
        benchmark=benchmarks.get(benchmark, **values),
        data=Path(data),
        images=Path(images) if images is not None else None,
        folder=Path(output) if output is not None else loaded.folder.parent / "evaluation" / name,
        model_id=str(loaded.folder),
        control=control,
        prompt=prompt,
        variant=variant,
    )
    return run(loaded.vlm, loaded.folder, requested, lambda _done, _total: None)


def score(
    benchmark: str,
    annotations: str | Path,
    answers: str | Path | Sequence[Answer],
    *,
    variant: str | None = None,
    missing: Literal["official", "wrong", "refuse"] = "official",
    options: Mapping[str, Any] | None = None,
) -> Score:
    """Score answers from any model or tool as a benchmark's official tool does.

    Args:
        benchmark: its name.
        annotations: the benchmark's own files.
        answers: a file in the benchmark's own format or in LLaVA's, or `Answer` objects.
        variant: the scoring, by name; None takes the official one.
        missing: what to do with questions without an answer: as the rule says, count as wrong, or refuse.
        options: the benchmark's own options.

    Raises:
        RequestError, DataError: as for `olivine score`.
    """
    from olivine.evaluation import benchmarks
    from olivine.evaluation.benchmarks.options import checked_options

    values = checked_options(benchmarks.find(benchmark), options or {}, f"{benchmark}: option")
    selected = benchmarks.get(benchmark, **values)
    selected.missing = missing
    questions = selected.read(Path(annotations))
    given = selected.read_answers(Path(answers), questions) if isinstance(answers, str | Path) else answers
    return selected.score(questions, given, variant)


def ablate(study: str | Path, *, launcher: str = "local", jobs: int = 1, quiet: bool = False) -> Path:
    """Run a study, resuming where it stopped, write its report, and return the report's path.

    Args:
        study: a YAML file, the directory of a study, or the name of a shipped one.
        launcher: "local" or "ray".
        jobs: steps at a time on this machine.
        quiet: print no progress and no messages. Warnings still go to the logger `olivine`, and Python prints those of
            a logger without handlers on stderr.

    Raises:
        RequestError: the study is invalid, or data are missing.
        RunError: a step failed (the others are completed and kept), or nothing is finished.
    """
    from olivine.ablation.run import carry_out, plan_study, report
    from olivine.ablation.terminal_lines import StepLines
    from olivine.console import stderr_console
    from olivine.errors import RunError
    from olivine.shipped_recipes import resolve

    path = resolve(Path(study), study=True)
    planned, console = plan_study(path), stderr_console(quiet=quiet)
    failures = carry_out(planned, path, console, StepLines(planned, console), launcher, jobs)
    page = report(planned)
    if failures:
        named = "".join(f"\n  {failure.step.key}: {failure.reason}" for failure in failures)
        raise RunError(f"{len(failures)} steps failed; a report of the others: {page}{named}")
    return page


def plan(
    recipe: "str | Path | Recipe", *overrides: str, device: str = "h100", count: int = 1, utilisation: float = 0.4
) -> "Estimate":
    """Return what a recipe takes before any of it is run: parameters, tokens, operations, memory, hours.

    Args:
        recipe: a YAML file, the name of a shipped recipe, or a `Recipe`.
        overrides: as on the command line.
        device: a device by name, such as "h100".
        count: the number of devices.
        utilisation: fraction of the device's peak that is reached.

    Raises:
        RequestError: an unknown device, or a model configuration that cannot be found.
    """
    from olivine.cost.estimate import estimate

    return estimate(_recipe(recipe, overrides), device, count, utilisation=utilisation)


def _recipe(given: "str | Path | Recipe", overrides: Sequence[str]) -> "Recipe":
    from olivine.recipe import Recipe
    from olivine.recipe import load as read
    from olivine.shipped_recipes import resolve

    if not isinstance(given, Recipe):
        return read(resolve(Path(given)), overrides)
    if overrides:
        raise RequestError("overrides apply to recipes that are read from a file; change the Recipe itself.")
    return given
