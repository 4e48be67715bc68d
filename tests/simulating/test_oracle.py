from __future__ import annotations

import numpy as np
import pytest

from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Task
from bench.metrics import evaluate
from bench.simulating import labels
from bench.simulating.oracle import progression_probabilities
from bench.simulating.population import Population


def test_the_oracle_is_calibrated_by_simulation():
    """Reading the same pair many times gives the classes as often as the oracle says."""
    rng = np.random.default_rng(0)
    n = 60_000
    S_1, S_2 = np.full((n, 7), 0.8), np.tile([1.1, 0.9, 1.6, 0.7, 1.0, 1.3, 2.0], (n, 1))
    h0 = np.full(n, 0.3)
    reading = labels.read_pairs(S_1, S_2, h0, rng.standard_normal((n, 2, 7)))
    said = labels.words(reading, np.ones(n, dtype=bool), labels.FROZEN)
    expected = progression_probabilities(reading.dq[:1], reading.m0[:1], labels.FROZEN)[0]
    for k in range(len(DISEASES)):
        mentioned = said[said[:, k] != NOT_MENTIONED, k]
        if len(mentioned) > 2000:
            shares = np.bincount(mentioned, minlength=3) / len(mentioned)
            np.testing.assert_allclose(shares, expected[k], atol=0.03)


def test_no_change_in_severity_is_symmetric_in_its_thresholds():
    p = progression_probabilities(np.zeros((1, 7)), np.full((1, 7), 2.0), labels.FROZEN)
    np.testing.assert_allclose(p.sum(axis=-1), 1.0)
    assert (p[0, :, 2] > p[0, :, 0]).all()


def test_more_reader_noise_makes_a_worse_oracle(small: Population):
    truth = small.pairs[list(DISEASES)].to_numpy()
    dq = small.pairs[[f"dq_{d}" for d in DISEASES]].to_numpy()
    m0 = small.pairs[[f"m0_{d}" for d in DISEASES]].to_numpy()
    aurocs = []
    for noise in (1.0, 3.0):
        noisy = dq + np.random.default_rng(0).normal(0, 0.3 * (noise - 1), dq.shape)
        logits = np.log(progression_probabilities(noisy, m0, labels.FROZEN, noise))
        aurocs.append(evaluate(Task.DISEASE_PROGRESSION, logits, truth)["auroc"])
    assert aurocs[0] > 0.85 > aurocs[1] - 0.02


def test_the_oracle_beats_a_guess_on_outcomes(small: Population):
    icu = small.stays[small.stays["icu_sample"]]
    p = icu["p_death"].to_numpy()
    scores = evaluate(
        Task.MORTALITY, np.log(p / (1 - p))[:, None], icu["died"].to_numpy().astype(int)
    )
    assert scores["auroc"] > 0.85
    los = np.log(icu[[f"p_los_{k}" for k in range(4)]].to_numpy())
    classes = np.digitize(icu["los_days"], (3, 4, 6))
    assert evaluate(Task.LENGTH_OF_STAY, los, classes)["kappa"] > 0.15
    assert p.mean() == pytest.approx(icu["died"].mean(), abs=0.02)
