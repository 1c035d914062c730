"""The configurations of a factorial design, and the contrasts that estimate effects from them.

No answers and no randomness here: a contrast is a vector of weights over configurations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

#: One level of every axis, in the order of the axes.
Configuration = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contrast:
    """A difference between configurations.

    `levels` is what is compared with each axis' baseline level: one axis is a main effect; two or three are an
    interaction, the difference between differences. `weights` has one weight per configuration; they sum to 0.
    """

    levels: tuple[tuple[str, str], ...]
    weights: NDArray[np.float64]

    @property
    def order(self) -> int:
        """1 for a main effect, 2 or more for an interaction."""
        return len(self.levels)

    @property
    def name(self) -> str:
        """Axes and levels, as tables and files write them: `vision=dinov2`, `align=no × vision=dinov2`."""
        return " × ".join(f"{axis}={level}" for axis, level in self.levels)


def all_configurations(axes: Mapping[str, Sequence[str]]) -> list[Configuration]:
    """Return every combination of levels, the last axis changing fastest."""
    return list(product(*axes.values()))


def one_at_a_time(axes: Mapping[str, Sequence[str]]) -> list[Configuration]:
    """Return the configuration of all baseline levels, and every configuration that differs from it on one axis."""
    first = tuple(levels[0] for levels in axes.values())
    changed = [
        (*first[:position], level, *first[position + 1 :])
        for position, levels in enumerate(axes.values())
        for level in levels[1:]
    ]
    return [first, *changed]


def half_fraction(axes: Mapping[str, Sequence[str]]) -> list[Configuration]:
    """Return the half of a two-level factorial in which an even number of axes is off its baseline level.

    Every main effect is then aliased with the interaction of all other axes.
    """
    assert all(len(levels) == 2 for levels in axes.values()), "a half-fraction needs two levels per axis"
    first = [levels[0] for levels in axes.values()]
    return [
        configuration
        for configuration in all_configurations(axes)
        if sum(a != b for a, b in zip(configuration, first, strict=True)) % 2 == 0
    ]


def contrasts(
    axes: Mapping[str, Sequence[str]], configurations: Sequence[Configuration], *, highest: int = 3
) -> list[Contrast]:
    """Return main effects, then interactions up to order `highest`, as far as the configurations can estimate them.

    A main effect is the coefficient of ordinary least squares on all main effects, each level against its axis'
    baseline: in a full factorial simply the mean of the configurations at the level minus the mean of those at the
    baseline. An interaction is averaged over every setting of the other axes for which all its corners are present.
    """
    found = [c for c in _main_effects(axes, configurations) if c is not None]
    for order in range(2, min(highest, len(axes)) + 1):
        for selected in combinations(axes, order):
            for levels in product(*(axes[axis][1:] for axis in selected)):
                weights = _interaction(axes, configurations, tuple(zip(selected, levels, strict=True)))
                if weights is not None:
                    found.append(Contrast(tuple(zip(selected, levels, strict=True)), weights))
    return found


def aliased(axes: Mapping[str, Sequence[str]], configurations: Sequence[Configuration]) -> list[str]:
    """Return the `axis=level` names whose main effect is aliased with another's in these configurations."""
    names = [f"{axis}={level}" for axis, levels in axes.items() for level in levels[1:]]
    return [name for name, contrast in zip(names, _main_effects(axes, configurations), strict=True) if contrast is None]


def _main_effects(axes: Mapping[str, Sequence[str]], configurations: Sequence[Configuration]) -> list[Contrast | None]:
    """Return one contrast for every level but the baseline of every axis; None where it cannot be estimated."""
    columns = [(axis, level) for axis, levels in axes.items() for level in levels[1:]]
    position = {axis: number for number, axis in enumerate(axes)}
    matrix = np.array(
        [
            [1.0, *(float(configuration[position[axis]] == level) for axis, level in columns)]
            for configuration in configurations
        ]
    )
    if not len(configurations):
        return [None for _ in columns]
    inverse = np.linalg.pinv(matrix)
    # A coefficient can be estimated if and only if its row of inverse @ matrix is its row of the identity.
    estimable = np.abs(inverse @ matrix - np.eye(len(columns) + 1)).max(axis=1) < 1e-9
    return [
        Contrast((column,), _tidy(inverse[number])) if estimable[number] else None
        for number, column in enumerate(columns, start=1)
    ]


def _interaction(
    axes: Mapping[str, Sequence[str]], configurations: Sequence[Configuration], levels: tuple[tuple[str, str], ...]
) -> NDArray[np.float64] | None:
    names = list(axes)
    index = {configuration: number for number, configuration in enumerate(configurations)}
    others = [axes[axis] for axis in names if axis not in dict(levels)]
    rows = []
    for setting in product(*others):
        row = np.zeros(len(configurations))
        for corner in product((0, 1), repeat=len(levels)):
            at = {axis: (level if on else axes[axis][0]) for (axis, level), on in zip(levels, corner, strict=True)}
            rest = iter(setting)
            configuration = tuple(at[axis] if axis in at else next(rest) for axis in names)
            if configuration not in index:
                break
            row[index[configuration]] = (-1.0) ** (len(levels) - sum(corner))
        else:
            rows.append(row)
    return np.mean(rows, axis=0) if rows else None


def _tidy(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights without the rounding errors of the pseudo-inverse, so that a zero weight is exactly zero."""
    return np.where(np.abs(row) < 1e-12, 0.0, np.round(row, 14))
