"""At paper size the cohort has the paper's counts (Tables 4 to 6), whatever the seed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.data.vocabulary import DISEASES, NOT_MENTIONED
from bench.simulating import labels, outcomes
from bench.simulating.populate import simulate_population


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 8])
def test_the_counts_are_the_papers(seed: int):
    population = simulate_population("paper", seed)
    icu = population.stays[population.stays["icu_sample"]]
    assert (len(icu), icu["died"].sum()) == (2720, 465)
    los = np.bincount(np.digitize(icu["los_days"], (3, 4, 6)))
    assert los.tolist() == list(outcomes.LOS_COUNTS)
    words = population.pairs[list(DISEASES)].to_numpy()
    assert (words != NOT_MENTIONED).any(axis=1).sum() == labels.N_LABELLED
    counts = [np.bincount(column, minlength=4)[:3] for column in words.T]
    assert np.array_equal(counts, labels.COUNTS)
