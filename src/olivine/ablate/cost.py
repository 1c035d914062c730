"""What a plan's steps will cost: tokens, floating-point operations, memory, hours. Estimates, by simple rules.

The rules, so that they can be checked and doubted:

- text: four characters a token (Gemma's on English); a picture: its image tokens, at the head of every sample.
- forward: 2 operations a parameter and token, embedding tables apart; the head only where there is a label (taken to be
  half of the text). Backward to activations: as much again, where anything below trains. Backward to weights: as much
  again, for what trains. Attention's quadratic part, 3-5 % at LLaVA's lengths, is left out.
- memory: 16 bytes a trained parameter (fp32 weight, gradient, two moments), 2 or 4 a frozen one, and 34 bytes of
  activations a token of a packed row, layer and unit of width. One device, nothing sharded.
- hours: operations over the device's dense bf16 peak, of which 40 % is reached.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from olivine.ablate.plan import EvaluateStep, Plan, StageStep, Step
from olivine.data.llava_json import read_items
from olivine.errors import OlivineError, RequestError, unknown_name
from olivine.evaluate import benchmarks
from olivine.model.size import ModelSize, model_size
from olivine.recipe import ModelRecipe, Recipe, StageRecipe

_CHARACTERS_A_TOKEN = 4
_LABELLED = 0.5
_ANSWER_TOKENS = 8
_REACHED = 0.4


@dataclass(frozen=True, slots=True)
class Device:
    """Dense bf16 operations a second at peak, and memory in GiB."""

    peak: float
    memory: float


#: Peaks from the makers' data sheets (dense, without sparsity); the CPU's was measured on two AVX-512 cores.
DEVICES = {
    "cpu": Device(0.4e12, 24),
    "rtx4090": Device(165e12, 24),
    "a100": Device(312e12, 80),
    "gaudi2": Device(432e12, 96),
    "h100": Device(989e12, 80),
    "h200": Device(989e12, 141),
}


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


def device(name: str) -> Device:
    """A device by its name.

    Raises:
        RequestError: none is called so.
    """
    if name not in DEVICES:
        raise RequestError(f"--device: {unknown_name(name, DEVICES)}")
    return DEVICES[name]


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
        size = _size(step.recipe)
        if isinstance(step, StageStep):
            return stage_cost(
                step.recipe, step.stage, size, _amount_of_file(step.recipe.data[step.stage.data].json_), on
            )
        return _evaluation_cost(step, size, on)
    except OlivineError:
        return None


@dataclass(frozen=True, slots=True)
class Amount:
    """How much a data source or a question file holds."""

    samples: int
    pictures: int
    characters: int


def stage_cost(recipe: Recipe, stage: StageRecipe, size: ModelSize, amount: Amount, on: Device) -> Cost:
    """The cost of a training stage over a source that holds `amount`."""
    passes = stage.steps * stage.batch / amount.samples if stage.steps else stage.epochs
    text = passes * amount.characters / _CHARACTERS_A_TOKEN
    image = passes * amount.pictures * size.image_tokens
    trains_below = any(part != "language" for part in stage.train)
    trains = "language" in stage.train
    language_factor = 1 + (trains_below or trains) + trains
    operations = 2 * image * size.vision * (3 if "vision" in stage.train else 1) + 2 * image * size.connector * (
        3 if "connector" in stage.train else 1
    )
    if stage.objective == "language":
        operations += 2 * (text + image) * (size.language - size.embedding) * language_factor
        operations += 2 * text * _LABELLED * size.embedding * language_factor
    parts = {"vision": size.vision, "connector": size.connector, "language": size.language}
    frozen_bytes = 2 if recipe.optimizer.precision == "bf16" else 4
    weights = sum(count * (16 if part in stage.train else frozen_bytes) for part, count in parts.items())
    memory = weights + 34 * stage.row_tokens * size.layers * size.hidden
    return Cost(text + image, operations, memory, operations / (on.peak * _REACHED))


def _evaluation_cost(step: EvaluateStep, size: ModelSize, on: Device) -> Cost:
    amount = _asked(step.benchmark, step.asked.data)
    pictures = 0 if step.control == "blind" else amount.pictures
    text = amount.characters / _CHARACTERS_A_TOKEN + _ANSWER_TOKENS * amount.samples
    image = pictures * size.image_tokens
    operations = 2.0 * image * (size.vision + size.connector)
    operations += 2 * (text + image) * (size.language - size.embedding)
    operations += 2 * _ANSWER_TOKENS * amount.samples * size.embedding
    width = 2 if step.recipe.optimizer.precision == "bf16" else 4
    memory = width * (size.vision + size.connector + size.language)
    return Cost(text + image, operations, memory, operations / (on.peak * _REACHED))


def _size(recipe: Recipe) -> ModelSize:
    return _size_of(recipe.model.model_dump_json(by_alias=True))


@lru_cache(maxsize=256)
def _size_of(model: str) -> ModelSize:
    return model_size(ModelRecipe.model_validate_json(model))


@lru_cache(maxsize=64)
def _amount_of_file(path: Path) -> Amount:
    counts: Counter[str] = Counter()
    for item in read_items(path):
        if not isinstance(item, dict):
            continue
        counts["samples"] += 1
        counts["pictures"] += item.get("image") is not None
        counts["characters"] += sum(len(str(turn.get("value", ""))) for turn in item.get("conversations", ()))
    return Amount(max(1, counts["samples"]), counts["pictures"], counts["characters"])


@lru_cache(maxsize=64)
def _asked(benchmark: str, data: Path) -> Amount:
    questions = benchmarks.get(benchmark).read(data)
    pictures = {question.image for question in questions if question.image is not None}
    return Amount(len(questions), len(pictures), sum(len(question.prompt) for question in questions))
