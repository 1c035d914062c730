"""One metric of one benchmark over a whole study: scores, effects, controls, and what they had to do without.

The arithmetic is in `statistics`, the values behind a score in `measures`, the whole study's tables in `results`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from olivine.ablation.measures import FinishedEvaluation, title
from olivine.ablation.study import Study
from olivine.evaluation.benchmarks.declaration import Metric
from olivine.records import Control
from olivine.statistics import (
    ClusteredScores,
    Configuration,
    Contrast,
    Effect,
    Estimate,
    contrasts,
    effects,
    estimates,
    generator,
)

#: A configuration and a seed: one trained model.
Model = tuple[Configuration, int]
Runs = Mapping[Model, FinishedEvaluation]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One metric of one benchmark over the whole study.

    `scores` and `controls` hold the configurations that were evaluated; `effects` use the largest part of the design
    that is complete. `notes` say, in sentences, which models are missing from which figures.
    """

    benchmark: str
    measure: Metric
    headline: bool
    scores: Mapping[Configuration, Estimate]
    by_seed: Mapping[Configuration, Mapping[int, float]]
    controls: Mapping[tuple[Configuration, Control], float]
    effects: tuple[Effect, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Benchmark and metric, as written in a sentence."""
        return f"{title(self.benchmark)} {self.measure.label}"

    @property
    def column(self) -> str:
        """The name with its unit, as in the head of a table column."""
        return f"{self.name}, {self.measure.unit}"


def same_questions(study: Study, name: str, runs: Runs) -> tuple[Runs, list[str]]:
    """Return the runs that were asked what most of them were, and a note on each of the others."""
    asked: dict[tuple[str, ...], list[Model]] = {}
    for model, run in runs.items():
        asked.setdefault(tuple(sorted(run.questions)), []).append(model)
    most = max(asked.values(), key=len)  # of equally many, those of the first configuration
    notes = [
        f"{title(name)}: {_name(study, model)} was asked {len(questions)} questions that differ from the "
        f"{len(runs[most[0]].questions)} asked of other configurations, and is in no figure. Evaluate it again."
        for questions, models in asked.items()
        for model in models
        if models is not most
    ]
    return {model: runs[model] for model in most}, notes


def measured_outcome(
    study: Study,
    name: str,
    measure: Metric,
    headline: bool,
    runs: Runs,
    controls: Mapping[tuple[Configuration, Control], float],
) -> Outcome:
    """Return one metric's outcome, from runs that were asked the same questions.

    Raises:
        RunError: the metric has no value without one of its clusters.
    """
    seeds_of = {
        configuration: [seed for seed in study.recipe.seeds if (configuration, seed) in runs]
        for configuration in study.configurations
    }
    scores: dict[Configuration, Estimate] = {}
    for seeds in dict.fromkeys(tuple(found) for found in seeds_of.values() if found):
        alike = [configuration for configuration, found in seeds_of.items() if tuple(found) == seeds]
        scores |= dict(zip(alike, estimates(_scores(measure, runs, alike, seeds)), strict=True))
    configurations, seeds = _block(study, seeds_of)
    wanted = contrasts(study.axes, configurations)
    found = _effects(name, measure, runs, configurations, seeds, wanted)
    return Outcome(
        benchmark=name,
        measure=measure,
        headline=headline,
        scores={configuration: scores[configuration] for configuration, seeds in seeds_of.items() if seeds},
        by_seed={
            configuration: {seed: runs[configuration, seed].value(measure) for seed in seeds}
            for configuration, seeds in seeds_of.items()
            if seeds
        },
        controls=controls,
        effects=tuple(found),
        notes=tuple(_notes(study, name, seeds_of, configurations, seeds, wanted)) if headline else (),
    )


def _scores(
    measure: Metric, runs: Runs, configurations: Sequence[Configuration], seeds: Sequence[int]
) -> ClusteredScores:
    first = runs[configurations[0], seeds[0]]
    every = [[runs[configuration, seed] for seed in seeds] for configuration in configurations]
    if measure.mean_of_items:
        order = sorted(first.questions)
        clusters = first.cluster_of(order)
        position = {cluster: number for number, cluster in enumerate(sorted(set(clusters)))}
        items = np.array([[run.items(order) for run in of_one] for of_one in every])
        return ClusteredScores.of_items(items, np.array([position[cluster] for cluster in clusters]))
    parts = [[run.clustered(measure) for run in of_one] for of_one in every]
    values, contributions = (np.array([[part[k] for part in of_one] for of_one in parts]) for k in (1, 2))
    return ClusteredScores(values, contributions, parts[0][0][3], measure.range)


def _effects(
    name: str,
    measure: Metric,
    runs: Runs,
    configurations: Sequence[Configuration],
    seeds: Sequence[int],
    wanted: Sequence[Contrast],
) -> list[Effect]:
    if not wanted:
        return []
    block = _scores(measure, runs, configurations, seeds)
    clusters = runs[configurations[0], seeds[0]].clusters
    if len(block.sizes) < 2:
        return []
    # The seed comes from the content: the same answers give the same figures, wherever and whenever computed.
    random = generator(name, measure.name, "\n".join(sorted(clusters)), block.values.tobytes())
    return effects(block, wanted, random)


def _block(
    study: Study, seeds_of: Mapping[Configuration, Sequence[int]]
) -> tuple[list[Configuration], tuple[int, ...]]:
    """Return the configurations and seeds that effects use: every one of the former has every one of the latter.

    Of all sets of seeds that some configuration has, the one with which most effects can be estimated, then that with
    most models.
    """
    best: tuple[list[Configuration], tuple[int, ...]] = ([], ())
    most = (-1, -1)
    shared = tuple(seed for seed in study.recipe.seeds if all(seed in found for found in seeds_of.values() if found))
    for seeds in dict.fromkeys([study.recipe.seeds, shared, *(tuple(found) for found in seeds_of.values())]):
        having = [configuration for configuration, found in seeds_of.items() if set(seeds) <= set(found)]
        worth = (len(contrasts(study.axes, having)), len(having) * len(seeds))
        if seeds and worth > most:
            best, most = (having, tuple(seeds)), worth
    return best


def _notes(
    study: Study,
    name: str,
    seeds_of: Mapping[Configuration, Sequence[int]],
    configurations: Sequence[Configuration],
    seeds: Sequence[int],
    wanted: Sequence[Contrast],
) -> list[str]:
    where, notes = title(name), []
    for configuration, found in seeds_of.items():
        called = study.configuration_name(configuration)
        missing = [str(seed) for seed in study.recipe.seeds if seed not in found]
        if not found:
            notes.append(f"{where}: {called} has no answers; it is in no figure.")
        elif missing:
            notes.append(f"{where}: the score of {called} is without seed {', '.join(missing)}.")
        if found and configuration not in configurations:
            notes.append(f"{where}: the effects are without {called}.")
    if 0 < len(seeds) < len(study.recipe.seeds):
        used = ", ".join(map(str, seeds))
        notes.append(f"{where}: the effects use seed {used} alone, which all their configurations have.")
    every = {contrast.name for contrast in contrasts(study.axes, study.configurations)}
    lost = sorted(every - {contrast.name for contrast in wanted})
    if lost:
        notes.append(f"{where}: without what is missing, these effects cannot be estimated: {', '.join(lost)}.")
    return notes


def _name(study: Study, model: Model) -> str:
    configuration, seed = model
    return study.configuration_name(configuration) + (f", seed {seed}" if len(study.recipe.seeds) > 1 else "")
