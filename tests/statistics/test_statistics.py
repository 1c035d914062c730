"""On clustered answers, intervals have their nominal coverage and tests their nominal rejection rate."""

import math

import numpy as np
import pytest

from olivine.statistics import (
    all_configurations,
    cluster_intervals,
    contrasts,
    detectable_effect,
    effects,
    estimates,
    generator,
    holm,
    pseudo_values,
    ratio_values,
    sign_flip,
    standard_errors,
    t_cumulative,
    t_quantile,
)

REPLICATES = 3000


def simulate(random, clusters, *, effect=0.0, sizes=(1, 20)):
    """Simulate two configurations on the same questions about images of varying difficulty: `[clusters, replicates]`.

    Return the right answers of each configuration and the number of questions. Each image has its own difficulty, and
    each configuration its own deviation on it, so that answers about one image are correlated.
    """
    asked = random.integers(*sizes, clusters)[:, None] * np.ones((1, REPLICATES))
    difficulty = random.uniform(0.2, 0.7, (clusters, REPLICATES))
    luck = random.uniform(-0.2, 0.2, (2, clusters, REPLICATES))
    first, second = random.binomial(asked.astype(int), difficulty + luck + np.array([0, effect])[:, None, None])
    return first, second, asked


@pytest.mark.parametrize("clusters", [30, 100])
def test_intervals_of_paired_differences_cover(clusters):
    random = np.random.default_rng(clusters)
    low_configuration, high_configuration, asked = simulate(random, clusters, effect=0.05)
    low, high = cluster_intervals(
        ratio_values(high_configuration, asked) - ratio_values(low_configuration, asked), random
    )
    covered = np.mean((low <= 0.05) & (high >= 0.05))
    assert 0.93 <= covered <= 0.97


def test_intervals_of_scores_cover_and_naive_ones_do_not():
    random = np.random.default_rng(1)
    right, _, asked = simulate(random, 60)
    low, high = cluster_intervals(ratio_values(right, asked), random)
    covered = np.mean((low <= 0.45) & (high >= 0.45))
    assert 0.93 <= covered <= 0.97

    share = right.sum(axis=0) / asked.sum(axis=0)
    naive = 1.96 * np.sqrt(share * (1 - share) / asked.sum(axis=0))
    assert np.mean(np.abs(share - 0.45) <= naive) < 0.90, "the interval assumes independent answers and must fail here"


@pytest.mark.parametrize("clusters", [40, 120])
def test_permutation_test_rejects_five_percent_under_the_null(clusters):
    random = np.random.default_rng(clusters)
    one, other, asked = simulate(random, clusters)
    p_values = sign_flip(ratio_values(other, asked) - ratio_values(one, asked), random, flips=1999)
    assert 0.04 <= np.mean(p_values <= 0.05) <= 0.06

    # The same answers, treated as independent.
    share = (one.sum(axis=0) + other.sum(axis=0)) / asked.sum(axis=0) / 2
    z = np.abs(other.sum(axis=0) - one.sum(axis=0)) / np.sqrt(2 * asked.sum(axis=0) * share * (1 - share))
    assert np.mean(z > 1.96) > 0.08


def test_permutation_test_detects_a_real_effect():
    random = np.random.default_rng(0)
    one, other, asked = simulate(random, 100, effect=0.1)
    assert np.mean(sign_flip(ratio_values(other, asked) - ratio_values(one, asked), random, flips=999) <= 0.05) > 0.8


def test_few_clusters_are_tested_exactly():
    # All of 4 clusters up: two of the 16 patterns of signs reach it.
    assert sign_flip(np.ones((4, 1)), np.random.default_rng(0)) == pytest.approx(2 / 16)


@pytest.mark.parametrize(("seeds", "between"), [(3, 0.3), (5, 0.3), (5, 1.0)])
def test_intervals_with_seeds_cover_other_trainings(seeds, between):
    random = np.random.default_rng(seeds)
    hits = 0
    for _ in range(2000):
        values = random.normal(0, 2, (1, 50)) + random.normal(0, between, (seeds, 1)) + random.normal(0, 1, (seeds, 50))
        about = standard_errors(values)
        hits += abs(values.mean()) <= t_quantile(0.975, round(about.degrees_of_freedom, 1)) * about.total
    assert 0.93 <= hits / 2000 <= 0.97


def test_questions_alone_do_not_cover_other_trainings():
    random = np.random.default_rng(2)
    values = random.normal(0, 1, (400, 3, 60)) + random.normal(0, 0.6, (400, 3, 1))
    found = estimates(values, random)
    assert np.mean([e.over_questions.holds(0) for e in found]) < 0.7
    assert np.mean([e.interval.holds(0) for e in found]) > 0.92
    assert all(e.standard_errors.seeds is not None for e in found)


def test_one_seed_says_that_seeds_are_unknown():
    about = standard_errors(np.random.default_rng(0).normal(size=(1, 20)))
    assert about.seeds is None


def test_ratio_values_average_to_the_ratio():
    sums, counts = np.array([1.0, 4.0, 0.0]), np.array([2.0, 4.0, 3.0])
    assert ratio_values(sums, counts).mean() == pytest.approx(5 / 9)


def test_values_of_equal_clusters_are_their_means():
    sums = np.array([1.0, 4.0, 0.0, 2.0])
    assert ratio_values(sums, np.full(4, 4.0)) == pytest.approx(sums / 4)


def test_groups_of_unequal_size_give_the_delete_a_group_variance():
    random = np.random.default_rng(0)
    values = random.normal(size=100)
    groups = np.array_split(values, 7)  # of 15 and of 14
    sizes = np.array([len(g) for g in groups], dtype=float)
    without = np.array([(values.sum() - g.sum()) / (100 - len(g)) for g in groups])
    made = pseudo_values(values.mean(), without, sizes)
    shares = 100 / sizes
    pseudo = shares * values.mean() - (shares - 1) * without
    expected = np.mean((pseudo - pseudo.mean()) ** 2 / (shares - 1))
    assert made.mean() == pytest.approx(values.mean())
    assert made.var(ddof=1) / 7 == pytest.approx(expected, rel=0.01)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("probability", "degrees_of_freedom", "expected"),
    # Student (1908) and any table of t.
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 10, 2.22814), (0.95, 30, 1.69726), (0.975, 1e7, 1.95996)],
)
def test_quantiles_of_t(probability, degrees_of_freedom, expected):
    assert t_quantile(probability, degrees_of_freedom) == pytest.approx(expected, abs=2e-5)
    assert t_quantile(1 - probability, degrees_of_freedom) == pytest.approx(-expected, abs=2e-5)
    assert t_cumulative(expected, degrees_of_freedom) == pytest.approx(probability, abs=1e-5)


AXES = {"language": ["small", "large"], "vision": ["clip", "dino"], "align": ["yes", "no"]}


def test_effects_recover_simulated_ones():
    random = np.random.default_rng(3)
    configurations = all_configurations(AXES)
    truth = {"vision=dino": 4.0, "align=no": -6.0, "vision=dino × align=no": 3.0}
    ability = random.normal(50, 20, 300)
    values = np.stack(
        [
            ability
            + 4 * (vision == "dino")
            - 7.5 * (align == "no")
            + 3 * (vision == "dino" and align == "no")
            - 1.5 * (vision == "dino")
            + random.normal(0, 5, (2, 300))
            for _, vision, align in configurations
        ]
    )
    found = {effect.contrast.name: effect for effect in effects(values, contrasts(AXES, configurations), random)}
    assert len(found) == 7
    for name, expected in truth.items():
        assert found[name].estimate.interval.holds(expected), name
        assert found[name].p_questions < 0.001
    assert found["language=large"].estimate.interval.holds(0)
    assert found["language=large"].p_holm >= found["language=large"].p
    # Images differ by 20 points; pairing removes that from the standard error.
    assert found["align=no"].estimate.standard_errors.questions < 1


def test_detectable_effect_is_detected_four_times_in_five():
    random = np.random.default_rng(4)
    about = standard_errors(random.normal(0, 10, (1, 2000)))
    effect = detectable_effect(about)
    values = random.normal(effect, 10, (2000, 1500))
    assert np.mean(sign_flip(values, random, flips=999) <= 0.05) == pytest.approx(0.8, abs=0.06)


def test_figures_follow_from_content():
    values = np.random.default_rng(0).normal(size=(3, 1, 40))
    first = estimates(values, generator("gqa", values.tobytes()))
    again = estimates(values, generator("gqa", values.tobytes()))
    assert first == again
    assert generator("ab", "c").random() != generator("a", "bc").random()


def test_a_single_cluster_has_no_interval():
    (only,) = estimates(np.array([[[3.0]]]), np.random.default_rng(0))
    assert math.isinf(only.interval.low)
    assert math.isinf(only.interval.high)
