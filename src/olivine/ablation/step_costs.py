"""What a plan's steps will cost: tokens, floating-point operations, memory, hours. Estimates, for one device.

A training stage is estimated by `cost.estimate`, as in `olivine plan`. An evaluation takes two operations per parameter
and token of each image, question and answer, where the embedding table counts nothing and the output head counts for
answer tokens only. Cached features take one forward pass of the tower over every image, and none in the trainings that
read them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from olivine.ablation.feature_cache import lengths_of, stage_estimate
from olivine.ablation.plan import EvaluateStep, FeatureStep, Plan, StageStep, Step
from olivine.cost.estimate import CHARACTERS_PER_TOKEN, Device, tower_operations
from olivine.errors import OlivineError
from olivine.evaluation import benchmarks
from olivine.model.size import model_size

_ANSWER_TOKENS = 8
#: The fraction of the device's peak that is reached: a common figure, not a measurement.
_REACHED = 0.4


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one step, or of several together, where memory is the largest of them."""

    tokens: float
    operations: float
    memory: float
    seconds: float

    def plus(self, other: "Cost") -> "Cost":
        """Return the cost of both, one after the other."""
        return Cost(
            self.tokens + other.tokens,
            self.operations + other.operations,
            max(self.memory, other.memory),
            self.seconds + other.seconds,
        )


NOTHING = Cost(0, 0, 0, 0)


def plan_costs(plan: Plan, on: Device) -> dict[str, Cost | None]:
    """Return the cost of every step; None if a model's configuration or the data cannot be read here."""
    return {key: step_cost(step, on) for key, step in plan.steps.items()}


def total(costs: Iterable[Cost | None]) -> Cost:
    """Return the sum of all known costs."""
    result = NOTHING
    for cost in costs:
        result = result.plus(cost or NOTHING)
    return result


def step_cost(step: Step, on: Device) -> Cost | None:
    """Return the cost of one step, regardless of how much of it is already done."""
    try:
        if isinstance(step, StageStep):
            return _stage_cost(step, on)
        return _feature_cost(step, on) if isinstance(step, FeatureStep) else _evaluation_cost(step, on)
    except OlivineError:
        return None


def _stage_cost(step: StageStep, on: Device) -> Cost:
    made = stage_estimate(step.recipe, step.stage, on.name, _REACHED)
    operations = made.operations
    if step.features is not None:
        operations -= made.samples * tower_operations(model_size(step.recipe.model), made.lengths)
    return Cost(made.tokens, operations, made.peak, operations / (on.peak * _REACHED))


def _feature_cost(step: FeatureStep, on: Device) -> Cost:
    size, lengths = model_size(step.recipe.model), lengths_of(step.recipe, step.stage)
    operations = lengths.samples * tower_operations(size, lengths)
    width = 2 if step.recipe.optimizer.precision == "bf16" else 4
    tokens = lengths.samples * lengths.images * size.patches
    return Cost(tokens, operations, width * size.tower, operations / (on.peak * _REACHED))


def _evaluation_cost(step: EvaluateStep, on: Device) -> Cost:
    questions, images, characters = _question_counts(step.benchmark, step.settings.data)
    size = model_size(step.recipe.model)
    answers = _ANSWER_TOKENS * questions
    text = characters / CHARACTERS_PER_TOKEN + answers
    image = size.patches * (0 if step.control == "blind" else images)
    operations = 2.0 * (image * (size.tower + size.connector) + (text + image) * size.blocks + answers * size.table)
    width = 2 if step.recipe.optimizer.precision == "bf16" else 4
    memory = width * (size.tower + size.connector + size.language)
    return Cost(text + image, operations, memory, operations / (on.peak * _REACHED))


@lru_cache(maxsize=64)
def _question_counts(benchmark: str, data: Path) -> tuple[int, int, int]:
    """Return (questions, images, characters of all questions)."""
    questions = benchmarks.get(benchmark).read(data)
    images = {image for question in questions for image in question.all_images}
    return len(questions), len(images), sum(len(question.prompt) for question in questions)
