"""Training curves of a study's stages, read from their metrics and thinned for the report.

The template draws them.
"""

from dataclasses import dataclass

from olivine.ablation.plan import Plan, StageStep
from olivine.files import read_json_lines
from olivine.training.log import METRICS

#: Points of a plotted curve; each is the mean of the training steps it represents.
_POINTS = 100
#: The plot's coordinate system.
WIDTH, HEIGHT = 1000, 360


@dataclass(frozen=True, slots=True)
class Curve:
    """One stage step's loss."""

    name: str
    points: str
    last: float


@dataclass(frozen=True, slots=True)
class Curves:
    """The loss curves of one stage in all configurations, on shared axes."""

    stage: str
    steps: int
    low: float
    high: float
    curves: tuple[Curve, ...]


def training_curves(plan: Plan) -> list[Curves]:
    """Return one plot per stage name."""
    by_stage: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for step in plan.steps.values():
        if isinstance(step, StageStep) and (step.folder / METRICS).is_file():
            rows = read_json_lines(step.folder / METRICS, allow_cut_end=True)
            losses = [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row]
            if losses:
                by_stage.setdefault(step.kind, {})[_name(plan, step)] = thinned(losses)
    return [_curves(stage, lines) for stage, lines in by_stage.items()]


def thinned(losses: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most `_POINTS` points, each the mean of a range of training steps."""
    width = -(-len(losses) // _POINTS)
    ranges = [losses[start : start + width] for start in range(0, len(losses), width)]
    return [(steps[-1][0], sum(loss for _, loss in steps) / len(steps)) for steps in ranges]


def _name(plan: Plan, step: StageStep) -> str:
    """Name the configurations that share the step by the levels that all of them have in common."""
    users = plan.used_by(step.key)
    common = [
        f"{axis}={users[0][0][position]}"
        for position, axis in enumerate(plan.study.axes)
        if len({configuration[position] for configuration, _ in users}) == 1
    ]
    seeds = f", seed {step.recipe.seed}" if len(plan.study.recipe.seeds) > 1 else ""
    return (", ".join(common) or "all configurations") + seeds


def _curves(stage: str, lines: dict[str, list[tuple[int, float]]]) -> Curves:
    steps = max(position for line in lines.values() for position, _ in line) + 1
    values = [loss for line in lines.values() for _, loss in line]
    low, high = min(0.0, *values), max(values) or 1.0

    def draw(line: list[tuple[int, float]]) -> str:
        return " ".join(
            f"{WIDTH * (position + 1) / steps:.0f},{HEIGHT * (1 - (loss - low) / (high - low)):.1f}"
            for position, loss in line
        )

    curves = tuple(Curve(name, draw(line), line[-1][1]) for name, line in lines.items())
    return Curves(stage, steps, low, high, curves)
