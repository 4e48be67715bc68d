"""Normalisation: known values, and nothing of the other splits in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.data.vocabulary import DEMOGRAPHICS, EHR_VARIABLES
from bench.preparing.attrition import Attrition
from bench.preparing.demographics import HEIGHT_CM, MEASURE_ITEMS, demographics
from bench.preparing.events import (
    WHOLE_STAY_SECONDS,
    Events,
    clean_events,
    no_events,
    ranges,
    read_raw_events,
)
from bench.preparing.items import ItemMap, official_items
from bench.preparing.normalising import fit_normalisation, normalisation_of
from bench.preparing.normalising_on_adults import fit_on_adults
from bench.preparing.rules import OFFICIAL, STRICT
from bench.preparing.stays import adult_stays, read_stays
from bench.preparing.windows import HORIZON_SECONDS
from bench.preparing.workplace import Workplace
from tests.preparing.raw_tree import HEART_RATE as ITEM
from tests.preparing.raw_tree import URINE, RawTree

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


def test_statistics_over_all_adults_are_of_whole_stays_without_films_too(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    tree.add_stay(1, los_hours=30)
    tree.add_stay(2, anchor_age=15)
    tree.add_stay(3, last_careunit="SICU")
    for k, hours, value in ((0, 1, 60), (0, 2, 60), (0, 119, 80), (0, 4, 2000), (1, 1, 100),
                            (2, 1, 200), (3, 1, 300)):  # fmt: skip
        tree.chart(k, hours, ITEM, value)
    tree.chart(0, 130, ITEM, 90)  # after discharge, but of the stay by its id
    for k, hours, height in ((0, 5, 170), (0, 1, 180), (1, 25, 160), (2, 1, 100)):
        tree.chart(k, hours, HEIGHT_CM, height)
    tree.chart(0, 1, URINE, 50)
    mimic_iv = tree.write(tmp_path / "raw").mimic_iv
    fitted = fit_on_adults(mimic_iv, OFFICIAL, ItemMap.OFFICIAL, Workplace(tmp_path))
    charted = [60, 60, 80, 390, 100, 90]
    assert fitted.ehr_mean[HEART_RATE] == pytest.approx(np.mean(charted))
    assert fitted.ehr_sd[HEART_RATE] == pytest.approx(np.std(charted))
    assert fitted.ehr_mean[EHR_VARIABLES.index("Urine output")] == 50
    age, height = (DEMOGRAPHICS.index(name) for name in ("age", "height"))
    assert fitted.demographics_mean[[age, height]].tolist() == [60.5, 170]
    assert fitted.demographics_sd[height] == pytest.approx(np.std([180, 160], ddof=1))
    by_time = replace(OFFICIAL, events_by_stay_id=False)
    fitted = fit_on_adults(mimic_iv, by_time, ItemMap.OFFICIAL, Workplace(tmp_path))
    assert fitted.ehr_mean[HEART_RATE] == pytest.approx(np.mean(charted[:-1]))


def test_official_statistics_are_over_the_value_of_a_time_that_is_kept(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    for hours, value in ((1, 98), (1, 100), (2, 60), (2, 60), (3, 70)):
        tree.chart(0, hours, ITEM, value)
    tree.chart(0, 1, URINE, 50)
    mimic_iv = tree.write(tmp_path / "raw").mimic_iv
    found = {}
    for name in ("normalise_on_kept", "sorted_as_text"):
        rules = replace(OFFICIAL, **{name: False})
        fitted = fit_on_adults(mimic_iv, rules, ItemMap.OFFICIAL, Workplace(tmp_path))
        found[name] = fitted.ehr_mean[HEART_RATE]
    fitted = fit_on_adults(mimic_iv, OFFICIAL, ItemMap.OFFICIAL, Workplace(tmp_path))
    assert fitted.ehr_mean[HEART_RATE] == pytest.approx(np.mean([98, 60, 70]))
    assert fitted.ehr_sd[HEART_RATE] == pytest.approx(np.std([98, 60, 70]))
    assert found["sorted_as_text"] == pytest.approx(np.mean([100, 60, 70]))
    assert found["normalise_on_kept"] == pytest.approx(np.mean([98, 100, 60, 60, 70]))


def test_of_several_items_of_a_variable_one_value_of_a_time_is_kept(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    for item, value in ((220179, 120), (220050, 110)):  # both systolic
        tree.chart(0, 1, item, value)
    tree.chart(0, 2, 220050, 100)
    tree.chart(0, 1, URINE, 50)
    tree.measure(0, 1, 50912, 1)  # creatinine: the laboratory's table is read too
    mimic_iv = tree.write(tmp_path / "raw").mimic_iv
    rules = replace(STRICT, normalise_on_kept=True)
    fitted = fit_on_adults(mimic_iv, rules, ItemMap.EXTENDED, Workplace(tmp_path))
    systolic = EHR_VARIABLES.index("Systolic blood pressure")
    assert fitted.ehr_mean[systolic] == pytest.approx(np.mean([120, 100]))


def test_of_several_at_a_time_the_last_is_kept():
    events = Events(*(np.array(x) for x in ([0, 0, 0, 1, 1], [4, 4, 4, 4, 5], [7, 7, 8, 8, 8])),
                    np.array([1.0, 2, 3, 4, 5]))  # fmt: skip
    assert events.kept().value.tolist() == [2, 3, 4, 5]
    assert no_events().kept().value.tolist() == []


def test_counted_values_weigh_as_often_as_they_occur():
    table = demographics_of([50], ["F"])
    each = fit_normalisation(events_of([60, 60, 60, 90], [0] * 4), np.array([True]), IMPUTE, table)
    counted = normalisation_of(
        np.full(2, HEART_RATE), np.array([60.0, 90]), np.array([3.0, 1]), IMPUTE, table
    )
    assert counted.to_json() == each.to_json()


def test_counted_statistics_are_those_of_the_events_of_the_open_demo(
    mimic_iv_demo: Path, tmp_path: Path
):
    stays = adult_stays(read_stays(mimic_iv_demo), STRICT, Attrition()).reset_index(drop=True)
    items = sorted({*official_items(), *MEASURE_ITEMS})
    whole = np.full(len(stays), WHOLE_STAY_SECONDS)
    raw = read_raw_events(mimic_iv_demo, stays, whole, items, STRICT)
    raw = raw[raw["seconds"] >= 0]
    table = demographics(stays, raw, np.full(len(stays), HORIZON_SECONDS), STRICT)
    everyone = np.ones(len(stays), bool)
    events = clean_events(raw, STRICT, Counter())
    of_events = fit_normalisation(events, everyone, IMPUTE, table)
    counted = fit_on_adults(mimic_iv_demo, STRICT, ItemMap.OFFICIAL, Workplace(tmp_path))
    assert len(stays) == 112 and len(events.value) > 70_000
    for name, values in vars(of_events).items():
        np.testing.assert_allclose(getattr(counted, name), values, rtol=1e-9, err_msg=name)
