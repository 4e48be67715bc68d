"""Bootstrap, permutation and Holm: known values, invariances, and error rates."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from bench import significance as sig
from bench.data.vocabulary import Task
from bench.metrics import Scorer
from bench.studies import type_one_error


def two_methods(n=150, n_subjects=60, gap=1.0, seed=0):
    """Scorers of a better and a worse method on one clustered mortality test set."""
    rng = np.random.default_rng(seed)
    more = rng.integers(0, n_subjects, n - n_subjects)
    subject = np.concatenate([np.arange(n_subjects), more])
    labels = (rng.random(n) < 0.35).astype(int)
    logits = [signal * labels + rng.normal(size=n) for signal in (1.0 + gap, 1.0)]
    return [Scorer.of(Task.MORTALITY, s[:, None], labels, subject) for s in logits]


def difference_of(first, second, names=("auroc",)):
    def statistic(counts):
        return (first.values(names, counts) - second.values(names, counts))[:, None]

    return statistic


def p_of(first, second, seed=0, n_resamples=999):
    generator = np.random.default_rng(seed)
    resamples = sig.bootstrap(difference_of(first, second), 60, n_resamples, generator)
    return sig.two_sided_p(resamples.values[0, 0])


def test_counts_draw_every_resample_with_replacement():
    counts = sig.draw_counts(np.random.default_rng(0), 30, 4000)
    assert counts.shape == (30, 4000)
    assert (counts.sum(axis=0) == 30).all()
    # Binomial(30, 1/30): mean 1, variance 29/30.
    assert counts.mean() == 1
    assert counts.var() == pytest.approx(29 / 30, abs=0.02)


def test_bootstrap_agrees_with_a_loop_over_scikit_learn():
    rng = np.random.default_rng(3)
    subject = np.repeat(np.arange(40), 2)
    labels = rng.integers(0, 2, 80)
    logits = labels + rng.normal(size=80)
    scorer = Scorer.of(Task.MORTALITY, logits[:, None], labels, subject)

    def statistic(counts):
        return scorer.values(["auroc"], counts)[:, None]

    values = sig.bootstrap(statistic, 40, 50, np.random.default_rng(1)).values[0, 0]
    first = np.random.default_rng(1).spawn(1)[0]
    counts = sig.draw_counts(first, 40, 50)[subject].astype(int)
    expected = [roc_auc_score(np.repeat(labels, c), np.repeat(logits, c)) for c in counts.T]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def test_same_seed_same_values_whatever_is_computed_beside():
    # Few positives: some resamples have none, and are drawn again for AUROC alone.
    labels = np.zeros(30, dtype=int)
    labels[:3] = 1
    rare = Scorer.of(Task.MORTALITY, np.arange(30.0)[:, None], labels, np.arange(30))

    def statistic(*names):
        return lambda counts: rare.values(names, counts)[:, None]

    alone = sig.bootstrap(statistic("auroc"), 30, 700, np.random.default_rng(5))
    beside = sig.bootstrap(statistic("accuracy", "auroc"), 30, 700, np.random.default_rng(5))
    np.testing.assert_array_equal(alone.values[0], beside.values[1])
    assert alone.n_redrawn[0] == beside.n_redrawn[1] > 0
    assert beside.n_redrawn[0] == 0
    assert not np.isnan(alone.values).any()
    # P(no positive) = (27/30)^30 = .042
    assert alone.redrawn_share[0] == pytest.approx(0.042, abs=0.02)


def test_a_metric_that_is_never_defined_stays_undefined():
    scorer = Scorer.of(Task.MORTALITY, np.arange(9.0)[:, None], np.zeros(9, int), np.arange(9))
    resamples = sig.bootstrap(
        lambda counts: scorer.values(["auroc"], counts)[:, None], 9, 20, np.random.default_rng(0)
    )
    assert np.isnan(resamples.values).all()
    assert resamples.redrawn_share[0] > sig.MAX_REDRAWN


def test_identical_predictions_give_p_of_one():
    method, _ = two_methods()
    assert p_of(method, method) == 1
    assert sig.permutation_p([(method, method)], "auroc", 99, np.random.default_rng(0)) == 1


def test_swapping_methods_keeps_p_and_negates_the_difference():
    first, second = two_methods(gap=0.3)
    assert p_of(first, second) == p_of(second, first)
    ones = np.ones((60, 1))
    assert difference_of(first, second)(ones) == -difference_of(second, first)(ones)
    p = [
        sig.permutation_p([pair], "auroc", 199, np.random.default_rng(2))
        for pair in [(first, second), (second, first)]
    ]
    assert p[0] == p[1] < 1


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_real_difference_is_found_whatever_the_scale_of_the_scores(scale):
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 2, 200)
    good, poor = 2.5 * labels + rng.normal(size=200), rng.normal(size=200)
    subject = np.arange(200) // 2
    first, second = (
        Scorer.of(Task.MORTALITY, s[:, None] / 100, labels, subject) for s in (good, scale * poor)
    )
    assert sig.permutation_p([(first, second)], "auroc", 999, rng) == 1 / 1000
    resamples = sig.bootstrap(difference_of(first, second), 100, 999, rng)
    assert sig.two_sided_p(resamples.values[0, 0]) == 2 / 1000


def test_two_sided_p_by_hand():
    assert sig.two_sided_p(np.array([1.0, 2, 3, 4, -1, 5, 6, 7, 8])) == 2 * 2 / 10
    assert sig.two_sided_p(np.full(99, -0.5)) == 2 / 100
    assert sig.two_sided_p(np.zeros(99)) == 1


def test_interval_covers_the_middle():
    low, high = sig.percentile_interval(np.arange(1001.0))
    assert (low, high) == pytest.approx((25, 975))


def test_holm_published_example():
    # Wikipedia, "Holm-Bonferroni method", example: H4 and H1 are rejected at .05, H3 and H2 kept.
    adjusted = sig.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02], rtol=0, atol=1e-15)


def test_holm_counts_a_missing_comparison():
    adjusted = sig.holm(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.08])


def test_stars_and_their_floor():
    assert [sig.stars(p) for p in (0.0009, 0.001, 0.01, 0.05, 1.0, np.nan)] == [
        "***",
        "**",
        "*",
        "",
        "",
        "",
    ]
    assert sig.smallest_adjusted_p(17_999, 9) == pytest.approx(0.001)
    assert sig.smallest_adjusted_p(9, 9) == 1


def test_equally_good_methods_are_rarely_told_apart():
    # A small version of the study (which wants .035 to .065 in 1000 sets): 150 sets, wider bounds;
    # a binomial share of .05 lies outside .01 to .11 once in some hundred times.
    rates = type_one_error.rejection_rates(150, 120, 199, seed=1, names=("auroc",))
    for test in ("bootstrap", "permutation", "delong"):
        assert 0.01 <= rates[test, "auroc"] <= 0.11
    assert rates["mcnemar", "accuracy"] <= 0.11


def test_a_better_method_is_told_apart():
    rates = type_one_error.rejection_rates(20, 400, 199, seed=1, names=("auroc",), gain=1.0)
    assert min(rates[test, "auroc"] for test in ("bootstrap", "permutation", "delong")) > 0.7


class TestClassical:
    def test_nested_differences_are_wider_when_seeds_differ(self) -> None:
        rng = np.random.default_rng(0)
        subjects = rng.normal(scale=0.01, size=2000)
        seeds = np.array([[-0.1], [0.0], [0.1]])
        first, second = seeds + subjects, np.zeros((3, 2000)) + subjects
        nested = sig.nested_differences(first, second, rng)
        assert nested.shape == (2000,)
        assert (first.mean(axis=0) - second.mean(axis=0)).std() < 1e-9
        # Three draws from -0.1, 0, 0.1: variance of their mean is (0.02 / 3) / 3.
        assert nested.std() == pytest.approx((0.02 / 9) ** 0.5, rel=0.1)

    def test_friedman_ranks_and_refuses_few_blocks(self) -> None:
        values = np.random.default_rng(1).normal(size=(8, 4)) + np.arange(4)
        ranks, p = sig.friedman(values)
        assert ranks.argmin() == 3 and ranks.sum() == pytest.approx(10)
        assert p == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)
        assert sig.friedman(np.ones((6, 3)))[1] == 1
        with pytest.raises(ValueError, match="4 blocks"):
            sig.friedman(values[:4])
        with pytest.raises(ValueError, match="two methods"):
            sig.friedman(values[:, :2])

    def test_nemenyi_of_the_published_table(self) -> None:
        """Demsar 2006, table 5: q of 2.343, 2.569 and 3.164 for 3, 4 and 10 classifiers at .05."""
        for k, q in ((3, 2.343), (4, 2.569), (10, 3.164)):
            expected = q * (k * (k + 1) / (6 * 14)) ** 0.5
            assert sig.nemenyi_difference(k, 14) == pytest.approx(expected, abs=2e-3)

    def test_delong_needs_both_classes(self) -> None:
        with pytest.raises(ValueError, match="two samples of each class"):
            sig.delong(np.array([1, 0, 0]), np.arange(3), np.arange(3))

    def test_mcnemar_without_disagreement(self) -> None:
        right = np.array([True, False, True])
        assert sig.mcnemar(right, right) == 1
