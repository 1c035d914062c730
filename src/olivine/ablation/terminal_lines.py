"""What a plan and its progress look like in a terminal: lines of text.

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
    """The steps with what they will cost, what is done, and the sum of what is left.

    Raises:
        RequestError: no device of that name.
    """
    on = named_device(device_name)
    costs = plan_costs(plan, on)
    steps, configurations = len(plan.steps), len(plan.study.configurations)
    yield f"{plan.study.name}: {configurations} configurations, {len(plan.stages)} trainings, {steps} steps -> {plan.study.directory}"
    yield f"{'step':<44} {'state':<6} {'configurations':>5} {'tokens':>8} {'FLOP':>8} {'memory':>10} {device_name:>10}"
    for key, step in plan.steps.items():
        state = "done" if step.done else "to do"
        yield f"{key:<44} {state:<6} {len(plan.used_by(key)):>5} {_cost_line(costs[key])}"
    left = [step.key for step in plan.left()]
    yield f"{'left: ' + str(len(left)) + ' steps':<44} {'':<6} {'':>5} {_cost_line(total(costs[key] for key in left))}"
    unknown = sum(costs[key] is None for key in left)
    if unknown:
        yield f"{unknown} steps could not be estimated: their data or a model's configuration are not at hand here."
    yield from _feature_lines(plan)
    alone = sum(len(plan.used_by(key)) for key in plan.steps)
    yield f"Run one by one, the configurations would take {alone} steps; shared, they take {steps}."
    for path in plan.missing:
        yield f"missing: {path} (needed before anything runs)"
    yield "Estimates: ablation/step_costs.py and cost/estimate.py say by which rules. One device; nothing sharded."


def _feature_lines(plan: Plan) -> Iterator[str]:
    """What keeping features of frozen towers on disk would save, where it is possible."""
    for benefit in plan.features:
        if benefit.bytes is None or benefit.saved is None:
            known = "what that would save cannot be estimated here"
        else:
            saved = f"{100 * benefit.saved:.1f} % of {benefit.trainings} trainings' FLOP"
            known = f"{benefit.bytes / 1e9:.3g} GB would save {saved}"
        kept = "kept" if benefit.kept else "not kept"
        yield f"features of {benefit.what}: {kept} ({known}; the study says {plan.study.recipe.features})"


def _cost_line(cost: Cost | None) -> str:
    if cost is None:
        return f"{'?':>8} {'?':>8} {'?':>10} {'?':>10}"
    memory = f"{cost.memory / 2**30:.1f} GiB"
    return f"{short(cost.tokens):>8} {short(cost.operations):>8} {memory:>10} {duration(cost.seconds):>10}"


def short(value: float) -> str:
    """A large number in three digits and a letter."""
    for size, letter in _UNITS:
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class StepLines:
    """Progress over a whole plan, a line for every step that ends, with the time left by what is left to compute."""

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
        self._speaks = ""
        self._computed = 0.0
        if self._over:
            console.print(f"{self._over} of {self._total} steps were done before", highlight=False)

    def begin(self, step: Step) -> None:
        """Say which configurations a step is for."""
        self._since[step.key] = time.monotonic()
        users = self._plan.used_by(step.key)
        first = self._plan.study.configuration_name(users[0][0])
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        self._names[step.key] = f"[{self._over + len(self._since)}/{self._total}] {step.kind} for {first}{more}"
        self._print(self._names[step.key])
        self._speaks = step.key

    def within(self, done: int, total: int) -> None:
        """Evaluations are short beside training: a line for each is enough."""

    def log_line(self, step: Step, text: str) -> None:
        """Print it under the step's name."""
        if self._speaks != step.key:
            self._print(self._names[step.key])
            self._speaks = step.key
        self._print(text.rstrip("\n"))

    def end(self, step: Step, failure: Failure | None) -> None:
        """Say how long it took and how long the rest will take."""
        self._over += 1
        self._computed += self._operations[step.key]
        took = time.monotonic() - self._since.pop(step.key, time.monotonic())
        # Others may have spoken since it began: its name comes again.
        name = "   " if self._speaks == step.key else f"{self._names.get(step.key, step.key)}:"
        if failure is not None:
            self._print(f"{name} failed: {failure.reason}")
            return
        left = sum(self._operations[s.key] for s in self._plan.left())
        rate = self._computed / max(1e-9, time.monotonic() - self._began)
        about = f", about {duration(left / rate)} left" if rate > 0 and left else ""
        self._print(f"{name} {duration(took)}{about}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)
