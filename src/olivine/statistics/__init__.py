"""Designs, clusters, intervals, tests and effects: arrays and tables in, numbers out; no torch, no files.

Where the arrays come from (a benchmark's answers) is decided elsewhere.
"""

from olivine.statistics.clusters import Array, pseudo_values, ratio_values
from olivine.statistics.components import StandardErrors, standard_errors
from olivine.statistics.design import (
    Configuration,
    Contrast,
    aliased,
    all_configurations,
    contrasts,
    half_fraction,
    one_at_a_time,
)
from olivine.statistics.effects import Effect, Estimate, corrected, detectable_effect, effects, estimates
from olivine.statistics.intervals import Interval, cluster_intervals, t_cumulative, t_quantile
from olivine.statistics.permutation import holm, sign_flip
from olivine.statistics.randomness import generator

__all__ = [
    "Array",
    "Configuration",
    "Contrast",
    "Effect",
    "Estimate",
    "Interval",
    "StandardErrors",
    "aliased",
    "all_configurations",
    "cluster_intervals",
    "contrasts",
    "corrected",
    "detectable_effect",
    "effects",
    "estimates",
    "generator",
    "half_fraction",
    "holm",
    "one_at_a_time",
    "pseudo_values",
    "ratio_values",
    "sign_flip",
    "standard_errors",
    "t_cumulative",
    "t_quantile",
]
