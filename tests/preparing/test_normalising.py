"""Normalisation: known values, and nothing of the other splits in it."""

from __future__ import annotations

import numpy as np
import pytest

from bench.data.vocabulary import DEMOGRAPHICS, EHR_VARIABLES
from bench.preparing.events import Events, no_events, ranges
from bench.preparing.normalising import fit_normalisation
from bench.preparing.rules import STRICT

IMPUTE = ranges(STRICT).impute
HEART_RATE = EHR_VARIABLES.index("Heart Rate")


def events_of(values: list[float], stays: list[int]) -> Events:
    n = len(values)
    return Events(np.array(stays), np.full(n, HEART_RATE), np.arange(n), np.array(values))


def demographics_of(age: list[float], gender: list[str]) -> np.ndarray:
    table = np.full((len(age), len(DEMOGRAPHICS)), np.nan)
    table[:, 0] = age
    for row, one in enumerate(gender):
        if one:
            table[row, 3:5] = [one == "F", one == "M"]
    return table


def test_events_of_training_stays_give_mean_and_population_sd():
    events = events_of([60, 80, 100, 390], [0, 1, 1, 2])
    training = np.array([True, True, False])
    table = demographics_of([50, 60, 90], ["F", "M", "M"])
    fitted = fit_normalisation(events, training, IMPUTE, table)
    assert fitted.ehr_mean[HEART_RATE] == 80
    assert fitted.ehr_sd[HEART_RATE] == pytest.approx(np.sqrt(800 / 3))
    changed = events_of([60, 80, 100, 0], [0, 1, 1, 2])
    table[2] = np.nan
    again = fit_normalisation(changed, training, IMPUTE, table)
    assert again.to_json() == fitted.to_json()


def test_a_variable_that_is_never_charted_or_never_varies_stays_finite():
    fitted = fit_normalisation(
        events_of([70, 70], [0, 0]), np.array([True]), IMPUTE, demographics_of([50], ["F"])
    )
    assert fitted.ehr_mean[HEART_RATE] == 70 and fitted.ehr_sd[HEART_RATE] == 1
    others = np.arange(len(IMPUTE)) != HEART_RATE
    assert (fitted.ehr_mean[others] == IMPUTE[others]).all()
    assert (fitted.ehr_sd[others] == 1).all()


def test_continuous_demographics_are_fenced_and_groups_filled_with_their_mode():
    age = [50.0, 52, 54, 56, 58, 60, 500, np.nan]
    gender = ["F", "M", "M", "M", "F", "F", "M", ""]
    fitted = fit_normalisation(no_events(), np.ones(8, bool), IMPUTE, demographics_of(age, gender))
    assert fitted.demographics_mean[0] == 55
    assert fitted.demographics_sd[0] == pytest.approx(np.std([50, 52, 54, 56, 58, 60], ddof=1))
    assert fitted.demographics_fill[:5].tolist() == [0, 0, 0, 0, 1]
    assert (fitted.demographics_mean[3:] == 0).all() and (fitted.demographics_sd[3:] == 1).all()
