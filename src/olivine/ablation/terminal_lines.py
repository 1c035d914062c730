"""How a plan and its progress are shown in a terminal: lines of text.

Nothing is planned or run here.
"""

import time
from collections.abc import Iterator

from rich.console import Console

from olivine.ablation.launch import Failure
from olivine.ablation.plan import Plan, Step
from olivine.ablation.step_costs import Cost, plan_costs, total
from olivine.cost.estimate import named_device

_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def plan_lines(plan: Plan, device_name: str) -> Iterator[str]:
    """Yield the steps with their state and estimated cost, and the sum over the remaining steps.

    Raises:
        RequestError: there is no device of that name.
    """
    on = named_device(device_name)
    costs = plan_costs(plan, on)
    steps, configurations = len(plan.steps), len(plan.study.configurations)
    counts = f"{configurations} configurations, {len(plan.stages)} trainings, {steps} steps"
    yield f"{plan.study.name}: {counts} -> {plan.study.directory}"
    yield f"{'step':<44} {'state':<6} {'runs':>5} {'tokens':>8} {'FLOP':>8} {'memory':>10} {device_name:>10}"
    for key, step in plan.steps.items():
        state = "done" if step.done else "to do"
        yield f"{key:<44} {state:<6} {len(plan.used_by(key)):>5} {_cost_line(costs[key])}"
    left = [step.key for step in plan.left()]
    yield f"{'left: ' + str(len(left)) + ' steps':<44} {'':<6} {'':>5} {_cost_line(total(costs[key] for key in left))}"
    unknown = sum(costs[key] is None for key in left)
    if unknown:
        yield f"{unknown} steps could not be estimated: their data or a model's configuration is not available here."
    yield from _feature_lines(plan)
    alone = sum(len(plan.used_by(key)) for key in plan.steps)
    yield "runs: configurations and seeds that share the step."
    yield f"Without sharing, the configurations would take {alone} steps; with sharing, they take {steps}."
    for path in plan.missing:
        yield f"missing: {path} (needed before anything can run)"
    yield "Estimates are for one device without sharding; the rules are in ablation/step_costs.py and cost/estimate.py."


def _feature_lines(plan: Plan) -> Iterator[str]:
    """Yield what caching the features of frozen towers on disk would save, where it is possible."""
    for benefit in plan.features:
        if benefit.bytes is None or benefit.saved is None:
            known = "the benefit cannot be estimated here"
        else:
            saved = f"{100 * benefit.saved:.1f} % of {benefit.trainings} trainings' FLOP"
            known = f"{benefit.bytes / 1e9:.3g} GB would save {saved}"
        kept = "cached" if benefit.kept else "not cached"
        yield f"features of {benefit.what}: {kept} ({known}; the study's setting is {plan.study.recipe.features})"


def _cost_line(cost: Cost | None) -> str:
    if cost is None:
        return f"{'?':>8} {'?':>8} {'?':>10} {'?':>10}"
    memory = f"{cost.memory / 2**30:.1f} GiB"
    return f"{short(cost.tokens):>8} {short(cost.operations):>8} {memory:>10} {duration(cost.seconds):>10}"


def short(value: float) -> str:
    """Format a large number with three digits and a letter."""
    for size, letter in _UNITS:
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class StepLines:
    """Progress over a whole plan: a line when a step starts and ends, with an estimate of the time remaining."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console = plan, console
        self._total = len(plan.steps)
        self._over = self._total - len(plan.left())
        self._operations = {
            key: cost.operations if cost else 0 for key, cost in plan_costs(plan, named_device("cpu")).items()
        }
        self._began = time.monotonic()
        self._since: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self._last_printed = ""
        self._computed = 0.0
        if self._over:
            console.print(f"{self._over} of {self._total} steps were already done", highlight=False)

    def begin(self, step: Step) -> None:
        """Print which configurations a step is for."""
        self._since[step.key] = time.monotonic()
        users = self._plan.used_by(step.key)
        first = self._plan.study.configuration_name(users[0][0])
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        self._names[step.key] = f"[{self._over + len(self._since)}/{self._total}] {step.kind} for {first}{more}"
        self._print(self._names[step.key])
        self._last_printed = step.key

    def within(self, done: int, total: int) -> None:
        """Print nothing: evaluations are short compared with training, so one line each is enough."""

    def log_line(self, step: Step, text: str) -> None:
        """Print the line under the step's name."""
        if self._last_printed != step.key:
            self._print(self._names[step.key])
            self._last_printed = step.key
        self._print(text.rstrip("\n"))

    def end(self, step: Step, failure: Failure | None) -> None:
        """Print how long the step took and how long the remaining ones will take."""
        self._over += 1
        self._computed += self._operations[step.key]
        took = time.monotonic() - self._since.pop(step.key, time.monotonic())
        # Other steps may have printed since it started, so its name is repeated.
        name = "   " if self._last_printed == step.key else f"{self._names.get(step.key, step.key)}:"
        if failure is not None:
            self._print(f"{name} failed: {failure.reason}")
            return
        left = sum(self._operations[s.key] for s in self._plan.left())
        rate = self._computed / max(1e-9, time.monotonic() - self._began)
        about = f", about {duration(left / rate)} left" if rate > 0 and left else ""
        self._print(f"{name} {duration(took)}{about}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)
