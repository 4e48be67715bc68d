"""Null experiments: a modality without signal shows another stay's course in everything."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bench.simulating.populate import simulate_population
from bench.simulating.population import Population
from bench.simulating.sizes import Knobs, Signal
from bench.simulating.streams import Tag, stream

FIO2 = 223835


def simulated(signal: Signal, size: str = "tiny") -> Population:
    return simulate_population(size, knobs=Knobs(signal=signal))


@pytest.mark.parametrize(
    ("signal", "same_films", "same_ehr"),
    [(Signal.CXR, True, False), (Signal.EHR, False, True), (Signal.NONE, False, False)],
)
def test_only_a_modality_with_signal_is_the_stays_own(
    signal: Signal, same_films: bool, same_ehr: bool
):
    own, turned = simulated(Signal.BOTH), simulated(signal)
    labels = [column for column in own.pairs if not column.startswith("p_")]
    pd.testing.assert_frame_equal(own.pairs[labels], turned.pairs[labels])
    assert np.array_equal(own.film_severity, turned.film_severity) is same_films
    assert np.array_equal(own.film_ventilated, turned.film_ventilated) is same_films
    assert own.events.equals(turned.events) is same_ehr


@pytest.mark.slow
def test_without_signal_neither_tube_nor_ventilator_nor_age_tells_of_death():
    population = simulated(Signal.NONE, "medium")
    stays = population.stays
    icu = stays["icu_sample"].to_numpy()
    died = stays["died"].to_numpy()[icu]
    settings = population.events[population.events["itemid"] == FIO2]
    shown = {
        "tube": pd.Series(population.film_ventilated).groupby(population.films["stay"]).mean(),
        "FiO2": settings[settings["hours"] < 48].groupby("stay").size(),
        "age": stays["age"],
    }
    se = np.sqrt(1 / (12 * died.sum()) + 1 / (12 * (~died).sum()))
    for name, score in shown.items():
        seen = score.reindex(stays.index).fillna(0).to_numpy()[icu]
        assert abs(roc_auc_score(died, seen) - 0.5) < 3 * se, name


def test_streams_differ_by_the_number_of_ids():
    one, two = stream(7, Tag.FILM, 5), stream(7, Tag.FILM, 5, 0)
    assert not np.array_equal(one.random(3), two.random(3))
