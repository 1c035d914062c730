"""Designs, clusters, intervals, tests and effects: arrays and tables in, numbers out; no torch, no files.

Where the arrays come from (a benchmark's answers) is decided elsewhere.
"""

from olivine.statistics.averages import Average, AverageKind, averages
from olivine.statistics.clusters import Array, pseudo_values, ratio_values
from olivine.statistics.comparison import Comparison, PairedItems, compare, model_scores
from olivine.statistics.components import StandardErrors, standard_errors
from olivine.statistics.correlated import difference_interval, mean_interval
from olivine.statistics.design import (
    Configuration,
    Contrast,
    aliased,
    all_configurations,
    contrasts,
    half_fraction,
    one_at_a_time,
)
from olivine.statistics.effects import Effect, Estimate, corrected, effects, estimates
from olivine.statistics.intervals import Interval, t_cumulative, t_quantile
from olivine.statistics.permutation import holm, sign_flip
from olivine.statistics.power import detectable_effect, equivalence, power_of
from olivine.statistics.randomness import generator
from olivine.statistics.scores import ClusteredScores

__all__ = [
    "Array",
    "Average",
    "AverageKind",
    "ClusteredScores",
    "Comparison",
    "Configuration",
    "Contrast",
    "Effect",
    "Estimate",
    "Interval",
    "PairedItems",
    "StandardErrors",
    "aliased",
    "all_configurations",
    "averages",
    "compare",
    "contrasts",
    "corrected",
    "detectable_effect",
    "difference_interval",
    "effects",
    "equivalence",
    "estimates",
    "generator",
    "half_fraction",
    "holm",
    "mean_interval",
    "model_scores",
    "one_at_a_time",
    "power_of",
    "pseudo_values",
    "ratio_values",
    "sign_flip",
    "standard_errors",
    "t_cumulative",
    "t_quantile",
]
