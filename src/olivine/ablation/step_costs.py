"""What a plan's steps will cost: tokens, floating-point operations, memory, hours. Estimates, for one device.

A training stage is estimated by `train.plan`, as `olivine plan` does. An evaluation is two operations a parameter and
token of each image, question and answer, the token table apart, the head for answers alone. Features that are kept
are one forward pass of the tower over every image, and none in the trainings that read them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from olivine.ablation.feature_cache import lengths_of, stage_estimate
from olivine.ablation.plan import EvaluateStep, FeatureStep, Plan, StageStep, Step
from olivine.cost.estimate import CHARACTERS_A_TOKEN, Device, tower_operations
from olivine.errors import OlivineError
from olivine.evaluation import benchmarks
from olivine.model.size import model_size

_ANSWER_TOKENS = 8
#: The share of the device's peak that is reached: a common figure, not a measurement.
_REACHED = 0.4


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one step, or of several together: memory is then the largest."""

    tokens: float
    operations: float
    memory: float
    seconds: float

    def plus(self, other: "Cost") -> "Cost":
        """Both, one after the other."""
        return Cost(
            self.tokens + other.tokens,
            self.operations + other.operations,
            max(self.memory, other.memory),
            self.seconds + other.seconds,
        )


NOTHING = Cost(0, 0, 0, 0)


def plan_costs(plan: Plan, on: Device) -> dict[str, Cost | None]:
    """The cost of every step; None where a model's configuration or the data cannot be read here."""
    return {key: step_cost(step, on) for key, step in plan.steps.items()}


def total(costs: Iterable[Cost | None]) -> Cost:
    """All that is known, together."""
    result = NOTHING
    for cost in costs:
        result = result.plus(cost or NOTHING)
    return result


def step_cost(step: Step, on: Device) -> Cost | None:
    """The cost of one step, whatever has been done of it."""
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
    questions, images, characters = _asked(step.benchmark, step.asked.data)
    size = model_size(step.recipe.model)
    answers = _ANSWER_TOKENS * questions
    text = characters / CHARACTERS_A_TOKEN + answers
    image = size.patches * (0 if step.control == "blind" else images)
    operations = 2.0 * (image * (size.tower + size.connector) + (text + image) * size.blocks + answers * size.table)
    width = 2 if step.recipe.optimizer.precision == "bf16" else 4
    memory = width * (size.tower + size.connector + size.language)
    return Cost(text + image, operations, memory, operations / (on.peak * _REACHED))


@lru_cache(maxsize=64)
def _asked(benchmark: str, data: Path) -> tuple[int, int, int]:
    """(questions, images, characters of all questions)."""
    questions = benchmarks.get(benchmark).read(data)
    images = {image for question in questions for image in question.all_images}
    return len(questions), len(images), sum(len(question.prompt) for question in questions)
