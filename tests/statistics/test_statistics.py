"""On clustered answers, intervals have their nominal coverage and tests their nominal rejection rate."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from olivine.statistics import (
    ClusteredScores,
    Estimate,
    Interval,
    PairedItems,
    all_configurations,
    averages,
    compare,
    contrasts,
    detectable_effect,
    difference_interval,
    effects,
    equivalence,
    estimates,
    generator,
    holm,
    mean_interval,
    model_scores,
    power_of,
    pseudo_values,
    ratio_values,
    sign_flip,
    standard_errors,
    t_cumulative,
    t_quantile,
)
from olivine.statistics.power import half_width

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


def difference(first, second, asked):
    """Interval of two configurations' difference, from counts: how many answers both have right is drawn."""
    both = np.random.default_rng(9).hypergeometric(first, asked.astype(int) - first, second)
    up, down = (second - both).astype(float), (first - both).astype(float)
    return difference_interval((up, up), (down, down), asked)


@pytest.mark.parametrize("clusters", [30, 100])
def test_intervals_of_paired_differences_cover(clusters):
    random = np.random.default_rng(clusters)
    low_configuration, high_configuration, asked = simulate(random, clusters, effect=0.05)
    low, high = difference(low_configuration, high_configuration, asked)
    assert 0.93 <= np.mean((low <= 0.05) & (high >= 0.05)) <= 0.985


def test_intervals_of_scores_cover_and_naive_ones_do_not():
    random = np.random.default_rng(1)
    right, _, asked = simulate(random, 60)
    low, high = mean_interval(right.astype(float), right.astype(float), asked)
    covered = np.mean((low <= 0.45) & (high >= 0.45))
    assert 0.93 <= covered <= 0.975

    share = right.sum(axis=0) / asked.sum(axis=0)
    naive = 1.96 * np.sqrt(share * (1 - share) / asked.sum(axis=0))
    assert np.mean(np.abs(share - 0.45) <= naive) < 0.90, "the interval assumes independent answers and must fail here"


@pytest.mark.parametrize("rate", [0.02, 0.97])
@pytest.mark.parametrize("correlation", [0.05, 0.5])
def test_intervals_hold_where_nearly_every_answer_is_alike(rate, correlation):
    random = np.random.default_rng(3)
    asked = np.full((15, REPLICATES), 5.0)
    asked[0] = 47  # one cluster holds 40 %
    concentration = 1 / correlation - 1
    chance = random.beta(rate * concentration, (1 - rate) * concentration, asked.shape)
    right = random.binomial(asked.astype(int), chance).astype(float)
    low, high = mean_interval(right, right, asked)
    assert np.mean((low <= rate) & (rate <= high)) >= 0.93
    assert low.min() >= 0
    assert high.max() <= 1
    assert (high - low).min() > 0.01


@pytest.mark.parametrize("clusters", [40, 120])
def test_permutation_test_rejects_five_percent_under_the_null(clusters):
    random = np.random.default_rng(clusters)
    one, other, asked = simulate(random, clusters)
    p_values, mid = sign_flip((other - one).astype(float), random, flips=1999)
    assert 0.04 <= np.mean(p_values <= 0.05) <= 0.06
    assert (mid <= p_values).all()

    # The same answers, treated as independent.
    share = (one.sum(axis=0) + other.sum(axis=0)) / asked.sum(axis=0) / 2
    z = np.abs(other.sum(axis=0) - one.sum(axis=0)) / np.sqrt(2 * asked.sum(axis=0) * share * (1 - share))
    assert np.mean(z > 1.96) > 0.08


def test_permutation_test_holds_its_size_on_very_unequal_clusters():
    random = np.random.default_rng(0)
    asked = np.clip(np.round(random.lognormal(1.2, 1.5, (15, REPLICATES))), 1, 400).astype(int)
    one, other = (random.binomial(asked, random.uniform(0.2, 0.8, asked.shape)) for _ in range(2))
    p_values, _ = sign_flip((other - one).astype(float), random, flips=999)
    assert np.mean(p_values <= 0.05) <= 0.06


def test_permutation_test_detects_a_real_effect():
    random = np.random.default_rng(0)
    one, other, _ = simulate(random, 100, effect=0.1)
    assert np.mean(sign_flip((other - one).astype(float), random, flips=999)[0] <= 0.05) > 0.8


def test_few_clusters_are_tested_exactly():
    # All of 4 clusters up: two of the 16 patterns of signs reach it. Clusters that do not differ change nothing.
    p, mid = sign_flip(np.array([[1.0]] * 4 + [[0.0]] * 30), np.random.default_rng(0))
    assert p == pytest.approx(2 / 16)
    assert mid == pytest.approx(1 / 16)


def test_exact_p_values_are_scipys():
    random = np.random.default_rng(5)
    for clusters in (5, 9, 13):
        values = random.normal(0.4, 1, clusters)
        theirs = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert sign_flip(values[:, None], random)[0][0] == pytest.approx(theirs.pvalue)


def test_of_single_binary_answers_it_is_mcnemars_exact_test():
    answers = np.array([1.0] * 8 + [-1.0] * 2 + [0.0] * 40)[:, None]
    assert sign_flip(answers, np.random.default_rng(0))[0][0] == pytest.approx(stats.binomtest(8, 10).pvalue)


@pytest.mark.parametrize(("seeds", "between"), [(2, 0.3), (2, 2.0), (3, 0.3), (5, 0.3), (5, 1.0)])
def test_intervals_with_seeds_cover_other_trainings(seeds, between):
    random = np.random.default_rng(seeds)
    hits = 0
    for _ in range(1500):
        values = random.normal(0, 2, (1, 50)) + random.normal(0, between, (seeds, 1)) + random.normal(0, 1, (seeds, 50))
        hits += abs(values.mean()) <= half_width(standard_errors(values), 0.975)
    assert hits / 1500 >= 0.94


def test_questions_alone_do_not_cover_other_trainings():
    random = np.random.default_rng(2)
    values = random.normal(0, 1, (400, 3, 60)) + random.normal(0, 0.6, (400, 3, 1))
    found = estimates(ClusteredScores.of_values(values, (-np.inf, None)))
    assert np.mean([e.over_questions.holds(0) for e in found]) < 0.7
    assert np.mean([e.interval.holds(0) for e in found]) > 0.94
    assert all(e.standard_errors.seeds is not None for e in found)


def test_the_crossed_variance_is_that_of_an_analysis_of_variance():
    """Against the closed form from the mean squares of a balanced two-way table, computed here by hand."""
    random = np.random.default_rng(8)
    values = random.normal(0, 2, (1, 40)) + random.normal(0, 1.5, (3, 1)) + random.normal(0, 1, (3, 40))
    mean, seeds, clusters = values.mean(), 3, 40
    of_seeds = clusters * ((values.mean(axis=1) - mean) ** 2).sum() / (seeds - 1)
    of_clusters = seeds * ((values.mean(axis=0) - mean) ** 2).sum() / (clusters - 1)
    everything = ((values - mean) ** 2).sum()
    rest = (everything - of_seeds * (seeds - 1) - of_clusters * (clusters - 1)) / ((seeds - 1) * (clusters - 1))
    expected = np.sqrt((of_seeds + of_clusters - rest) / (seeds * clusters))
    assert standard_errors(values).total == pytest.approx(expected)


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
    scores = ClusteredScores.of_values(values)
    found = {effect.contrast.name: effect for effect in effects(scores, contrasts(AXES, configurations), random)}
    assert len(found) == 7
    for name, expected in truth.items():
        assert found[name].estimate.interval.holds(expected), name
        assert found[name].p_questions < 0.001
    assert found["language=large"].estimate.interval.holds(0)
    assert found["language=large"].p_holm >= found["language=large"].p
    # Images differ by 20 points; pairing removes that from the standard error.
    assert found["align=no"].estimate.standard_errors.questions < 1


def test_detectable_effect_and_power_are_the_noncentral_ts():
    """Against scipy's noncentral t, which `detectable_effect` inverts, and a simulation of the t-test itself."""
    random = np.random.default_rng(4)
    for clusters in (5, 15, 200):
        about = standard_errors(random.normal(0, 10, (1, clusters)))
        effect = detectable_effect(about)
        shift, at = effect / about.questions, stats.t.ppf(0.975, clusters - 1)
        assert stats.nct.sf(at, clusters - 1, shift) == pytest.approx(0.8, abs=1e-3)
        assert power_of(effect, about) == pytest.approx(0.8, abs=2e-3)
    drawn = random.normal(6.0, 10, (20, 20000))
    t = drawn.mean(axis=0) / drawn.std(axis=0, ddof=1) * np.sqrt(20)
    about = replace(standard_errors(drawn[:, 0][None]), questions=10 / np.sqrt(20))
    assert np.mean(np.abs(t) > stats.t.ppf(0.975, 19)) == pytest.approx(power_of(6.0, about), abs=0.01)


def test_power_of_no_effect_is_the_level():
    about = standard_errors(np.random.default_rng(4).normal(0, 10, (1, 30)))
    assert power_of(0.0, about) == pytest.approx(0.05)


def test_equivalence_is_two_one_sided_t_tests():
    random = np.random.default_rng(6)
    for shift in (0.0, 1.0, -2.5):
        values = random.normal(shift, 5, 40)
        upper = stats.ttest_1samp(values, 3.0, alternative="less").pvalue
        lower = stats.ttest_1samp(values, -3.0, alternative="greater").pvalue
        found = equivalence(float(values.mean()), standard_errors(values[None]), 3.0)
        assert found == pytest.approx(max(upper, lower))
    with pytest.raises(ValueError, match="more than 0"):
        equivalence(0.0, standard_errors(values[None]), 0.0)


def test_two_models_that_differ_by_the_margin_are_called_tied_in_one_case_of_twenty():
    random = np.random.default_rng(7)
    values = random.normal(3.0, 5, (3000, 40))
    tied = [equivalence(float(v.mean()), standard_errors(v[None]), 3.0) <= 0.05 for v in values]
    assert 0.04 <= np.mean(tied) <= 0.06


def paired(first, second, clusters):
    return PairedItems(100 * np.array([first, second], dtype=float), clusters)


def test_identical_answers_have_no_effect_p_1_and_an_interval_with_a_width():
    right = [1, 0, 1, 1] * 15
    (found,) = compare({"gqa": paired(right, right, [f"{n // 4}" for n in range(60)])}, margin=20)
    estimate = found.effect.estimate
    assert (estimate.value, found.effect.p, found.effect.p_mid, found.won, found.lost) == (0.0, 1.0, 1.0, 0, 0)
    assert estimate.interval.low < -1
    assert estimate.interval.high == -estimate.interval.low < 30


@pytest.mark.parametrize("right", [[1.0] * 60, [0.0] * 60, [0.5] * 60])
def test_no_score_has_an_interval_without_a_width_or_outside_its_range(right):
    (found, _) = model_scores(paired(right, right, [f"{n // 4}" for n in range(60)]))
    assert 0 <= found.interval.low <= found.value <= found.interval.high <= 100
    assert found.interval.high - found.interval.low > 1


def test_a_comparison_counts_items_and_corrects_over_benchmarks():
    random = np.random.default_rng(0)
    ease = np.repeat(random.uniform(0.2, 0.9, 100), 4)
    clusters = [f"{n // 4}" for n in range(400)]
    first, second, third = (random.random(400) < ease + more for more in (0, 0.25, 0.25))
    items = PairedItems(100 * np.array([first, second, third], dtype=float), clusters)
    found = compare({"a": items, "b": items}, margin=10.0)
    assert [(c.benchmark, c.first, c.second) for c in found] == [
        (name, *pair) for name in "ab" for pair in ((0, 1), (0, 2), (1, 2))
    ]
    better = found[0]
    assert better.won - better.lost == (second.astype(int) - first.astype(int)).sum()
    assert better.effect.estimate.value == pytest.approx(100 * (second.mean() - first.mean()))
    assert [c.effect.p_holm for c in found] == pytest.approx(holm([c.effect.p for c in found]))
    assert better.tied is False
    assert found[2].tied is (found[2].effect.tied_within <= 10)
    assert 0 < found[2].power <= 1
    assert str(compare({"a": items, "b": items}, margin=10.0)) == str(found)


def test_too_few_clusters_are_refused():
    with pytest.raises(ValueError, match="2 questions in 1 clusters"):
        compare({"gqa": paired([1, 0], [1, 1], ["a", "a"])})


def estimate_of(value, reach):
    about = standard_errors(np.zeros((1, 9)))
    return Estimate(value, Interval(value - reach, value + reach), Interval(value - reach, value + reach), about, 9, 1)


def test_averages_over_benchmarks_by_hand():
    scores = {
        "a": [estimate_of(60.0, 3.0), estimate_of(70.0, 3.0)],
        "b": [estimate_of(40.0, 4.0), estimate_of(30.0, 4.0)],
    }
    mean = averages(scores, "mean")
    assert [(m.value, m.interval.low, m.interval.high, m.benchmarks) for m in mean] == [(50, 47.5, 52.5, 2)] * 2
    normalised = averages(scores, "normalised", {"a": (50.0, 100.0), "b": (0.0, 100.0)})
    assert [m.value for m in normalised] == [30.0, 35.0]
    assert normalised[0].interval.high - 30 == pytest.approx(np.hypot(6, 4) / 2)
    z = averages(scores, "z")
    assert [m.value for m in z] == pytest.approx([0, 0])
    assert z[0].interval.high == pytest.approx(np.hypot(3 / 5, 4 / 5) / 2)
    assert stats.zscore([60.0, 70.0]) == pytest.approx([-1, 1])
    by_seed = {"a": [[59.0, 61.0], [70.0, 70.0]], "b": [[38.0, 42.0], [30.0, 30.0]]}
    seeded = averages(scores, "mean", by_seed=by_seed)
    error = np.std([48.5, 51.5], ddof=1) / np.sqrt(2)
    assert seeded[0].interval.high - 50 == pytest.approx(np.hypot(2.5, t_quantile(0.975, 1) * error))
    assert seeded[1].interval == mean[1].interval
    assert averages({}, "mean") is None
    assert averages({"a": [estimate_of(1.0, 1.0)]}, "z") is None


def test_figures_follow_from_content():
    values = np.random.default_rng(0).normal(size=(8, 1, 40))
    scores, wanted = ClusteredScores.of_values(values), contrasts(AXES, all_configurations(AXES))
    first, again = ([e.p for e in effects(scores, wanted, generator("gqa", values.tobytes()))] for _ in range(2))
    assert first == again
    assert generator("ab", "c").random() != generator("a", "bc").random()


def test_a_single_cluster_has_no_interval():
    (only,) = estimates(ClusteredScores.of_values(np.array([[[3.0]]])))
    assert math.isinf(only.interval.low)
    assert math.isinf(only.interval.high)
