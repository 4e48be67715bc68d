"""The study of associations measures what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.data.miniature import miniature_cohort
from bench.data.vocabulary import NOT_MENTIONED, Task
from bench.errors import UserError
from bench.studies.association import explained_share, main, shared_share


def share(task: Task, logits: np.ndarray, labels: np.ndarray) -> float:
    return float(explained_share(task, logits, labels, np.ones((1, len(labels))))[0])


def test_certain_answers_explain_everything_and_chance_nothing():
    rng = np.random.default_rng(0)
    died = rng.integers(0, 2, 4000)
    assert share(Task.MORTALITY, 100.0 * (2 * died - 1)[:, None], died) == pytest.approx(1)
    assert abs(share(Task.MORTALITY, rng.normal(size=(4000, 1)), died)) < 0.005


def test_chance_explains_nothing_of_few_labels_on_average():
    rng = np.random.default_rng(1)
    died = np.arange(20) % 2
    shares = [share(Task.MORTALITY, rng.normal(size=(20, 1)), died) for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0, abs=0.01)


def test_a_noisy_copy_explains_no_more_than_the_ceiling_of_what_the_truth_explains():
    rng = np.random.default_rng(2)
    told = rng.standard_normal(200_000)
    died = (rng.random(len(told)) < 1 / (1 + np.exp(-2 * told))).astype(int)
    shown = 0.5**0.5 * told + 0.5**0.5 * rng.standard_normal(len(told))
    oracle = share(Task.MORTALITY, 2 * told[:, None], died)
    # The best answer from `shown` is monotone in it; a logistic one is nearly that.
    assert share(Task.MORTALITY, shown[:, None], died) < 0.5 * oracle + 0.005
    assert share(Task.MORTALITY, shown[:, None], died) > 0.4 * oracle


def test_unmentioned_diseases_do_not_count():
    labels = np.full((60, 7), NOT_MENTIONED)
    labels[:, 2] = np.arange(60) % 3
    logits = np.random.default_rng(3).normal(size=(60, 7, 3))
    logits[np.arange(60), 2, labels[:, 2]] = 50
    assert share(Task.DISEASE_PROGRESSION, logits.reshape(60, -1), labels) == pytest.approx(1)


def test_what_demographics_explain_of_the_labels_is_known_to_films_too(tmp_path: Path):
    cohort = miniature_cohort(tmp_path / "cohort", n_stays=200)
    chance = shared_share(Task.MORTALITY, cohort)
    ages = cohort.arrays["demographics"][:, 0]
    planted = replace(cohort, stays=cohort.stays.assign(mortality=ages > np.nanmedian(ages)))
    assert chance < 0.1 < 0.4 < shared_share(Task.MORTALITY, planted) < 0.9


def test_weights_count_as_repeated_subjects():
    rng = np.random.default_rng(4)
    died, logits = rng.integers(0, 2, 40), rng.normal(size=(40, 1))
    twice = np.r_[np.arange(40), np.arange(10)]
    weights = np.bincount(twice, minlength=40)[None].astype(float)
    weighted = explained_share(Task.MORTALITY, logits, died, weights)[0]
    repeated = share(Task.MORTALITY, logits[twice], died[twice])
    # Adjusted for 40 subjects here, for 50 rows there.
    assert (1 - weighted) * 38 / 39 == pytest.approx((1 - repeated) * 48 / 49)


def test_a_dry_run_makes_no_cohort(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="without --dry-run it is made"):
        main(["--dry-run", "--association", "0.5"])
    assert list(tmp_path.iterdir()) == []


def test_the_study_takes_no_cohort():
    with pytest.raises(UserError, match="makes its own cohorts"):
        main(["--cohort", "data/mine"])
