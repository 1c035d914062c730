"""What a study has cost: seconds and tokens as logged by its steps; energy is not measured.

Estimates of what it will cost are in `step_costs`.
"""

from dataclasses import dataclass
from pathlib import Path

from olivine.ablation.plan import Plan, StageStep, Step
from olivine.ablation.steps import TIMING
from olivine.files import read_json, read_json_lines
from olivine.training.log import METRICS


@dataclass(frozen=True, slots=True)
class Spent:
    """One step's cost; `shared_by` is the number of configurations and seeds that use the step."""

    key: str
    kind: str
    training: bool
    seconds: float
    tokens: int
    shared_by: int


def spent(plan: Plan) -> list[Spent]:
    """Return the cost of every finished step, in order."""
    found = []
    for step in plan.steps.values():
        if step.done:
            seconds, tokens = _of_step(step)
            training = isinstance(step, StageStep)
            found.append(Spent(step.key, step.kind, training, seconds, tokens, len(plan.used_by(step.key))))
    return found


def _of_step(step: Step) -> tuple[float, int]:
    if isinstance(step, StageStep):
        return _logged(step.folder / METRICS)
    timing = step.folder / TIMING
    return (float(read_json(timing)["seconds"]) if timing.is_file() else 0.0), 0


def _logged(path: Path) -> tuple[float, int]:
    if not path.is_file():
        return 0.0, 0
    rows = [row for row in read_json_lines(path, allow_cut_end=True) if "loss" in row]
    # The training step itself, and the wait for its batch.
    seconds = sum(float(row.get("seconds", 0)) + float(row.get("waited", 0)) for row in rows)
    return seconds, sum(int(row.get("tokens", 0)) for row in rows)
