"""Designs, clusters, intervals, tests and effects: arrays and tables in, numbers out; no torch, no files.

Where the arrays come from (a benchmark's answers) is not here.
"""

from olivine.statistics.clusters import Array, pseudo_values, ratio_values
from olivine.statistics.components import Spread, spread
from olivine.statistics.design import Cell, Contrast, all_cells, contrasts, half, one_at_a_time, untold
from olivine.statistics.effects import Effect, Estimate, corrected, detectable_effect, effects, estimates
from olivine.statistics.intervals import Interval, cluster_intervals, t_cumulative, t_quantile
from olivine.statistics.permutation import holm, sign_flip
from olivine.statistics.randomness import generator

__all__ = [
    "Array",
    "Cell",
    "Contrast",
    "Effect",
    "Estimate",
    "Interval",
    "Spread",
    "all_cells",
    "cluster_intervals",
    "contrasts",
    "corrected",
    "detectable_effect",
    "effects",
    "estimates",
    "generator",
    "half",
    "holm",
    "one_at_a_time",
    "pseudo_values",
    "ratio_values",
    "sign_flip",
    "spread",
    "t_cumulative",
    "t_quantile",
    "untold",
]
