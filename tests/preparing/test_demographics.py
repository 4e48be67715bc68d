"""Demographic inputs: categories, units, and what is known in time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.data.vocabulary import DEMOGRAPHIC_GROUPS, DEMOGRAPHICS
from bench.preparing.demographics import demographics, members, race_group
from bench.preparing.rules import STRICT, Rules

HOUR = 3600


def stay(**changes: object) -> pd.DataFrame:
    row = {
        "age": 60.0,
        "gender": "F",
        "race": "WHITE",
        "language": "ENGLISH",
        "marital_status": "MARRIED",
        **changes,
    }
    return pd.DataFrame([row])


def charted(*rows: tuple[int, float, float]) -> pd.DataFrame:
    """Rows of item, hours, number, all of stay 0."""
    table = pd.DataFrame(rows, columns=["itemid", "hours", "number"])
    return table.assign(stay=0, seconds=(table["hours"] * HOUR).astype(int), value=None)


def inputs(
    stays: pd.DataFrame, events: pd.DataFrame, known_hours: float = 48, rules: Rules = STRICT
) -> dict[str, float]:
    until = np.array([int(known_hours * HOUR)])
    values = demographics(stays, events, until, rules)
    return dict(zip(DEMOGRAPHICS, values[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("race", "group"),
    [
        ("WHITE - RUSSIAN", "WHITE"),
        ("BLACK/CAPE VERDEAN", "BLACK/AFRICAN AMERICAN"),
        ("HISPANIC/LATINO - CUBAN", "HISPANIC/LATINO"),
        ("HISPANIC OR LATINO", "HISPANIC/LATINO"),
        ("ASIAN - KOREAN", "ASIAN"),
        ("AMERICAN INDIAN/ALASKA NATIVE", "OTHER"),
        ("MULTIPLE RACE/ETHNICITY", "OTHER"),
        ("UNABLE TO OBTAIN", "UNKNOWN/UNABLE TO OBTAIN/PATIENT DECLINED TO ANSWER"),
        ("PATIENT DECLINED TO ANSWER", "UNKNOWN/UNABLE TO OBTAIN/PATIENT DECLINED TO ANSWER"),
        ("PORTUGUESE", None),
        (None, None),
    ],
)
def test_race_groups(race: str | None, group: str | None):
    assert race_group(race) == group
    found = inputs(stay(race=race), charted())
    one_hot = [found[name] for name in members("race_group_")]
    if group is None:
        assert np.isnan(one_hot).all()
    else:
        assert sum(one_hot) == 1 and found[f"race_group_{group}"] == 1


@pytest.mark.parametrize(
    ("language", "column"),
    [("ENGLISH", "language_ENGLISH"), ("English", "language_ENGLISH"), ("?", "language_?"),
     ("Spanish", "language_?")],
)  # fmt: skip
def test_languages_of_every_release(language: str, column: str):
    assert inputs(stay(language=language), charted())[column] == 1


def test_what_is_missing_is_nan_in_its_whole_group():
    found = inputs(stay(gender=None, language=None, marital_status=None), charted())
    for prefix in ("gender_", "language_", "marital_status_"):
        assert np.isnan([found[name] for name in members(prefix)]).all()
    assert np.isnan(found["height"]) and np.isnan(found["weight"])
    assert found["age"] == 60
    assert sum(len(members(prefix)) for prefix in DEMOGRAPHIC_GROUPS) == len(DEMOGRAPHICS) - 3


@pytest.mark.parametrize(
    ("item", "charted_value", "name", "expected"),
    [
        (226730, 170, "height", 170),
        (226707, 67, "height", 170),  # inches
        (224639, 80, "weight", 80),
        (226512, 81, "weight", 81),
        (226531, 200, "weight", pytest.approx(90.7, abs=0.1)),  # pounds
        (226730, 0, "height", np.nan),
        (226730, 900, "height", np.nan),
    ],
)
def test_measures(item: int, charted_value: float, name: str, expected: float):
    found = inputs(stay(), charted((item, -2, charted_value)))
    assert found[name] == expected or (np.isnan(expected) and np.isnan(found[name]))


def test_the_first_valid_measure_before_the_prediction_time_counts():
    events = charted((224639, 30, 79.0), (224639, 10, 78.0), (226512, 5, 0.0))
    assert inputs(stay(), events)["weight"] == 78
    assert np.isnan(inputs(stay(), events, known_hours=9)["weight"])
    assert np.isnan(inputs(stay(), events, known_hours=10)["weight"])
    late = charted((224639, 60, 79.0))
    assert np.isnan(inputs(stay(), late)["weight"])
    assert inputs(stay(), late, rules=Rules("ahead", measures_look_ahead=True))["weight"] == 79


def test_inches_pass_as_centimetres_officially():
    rules = Rules("inches", height_inches_as_cm=True)
    assert inputs(stay(), charted((226707, 1, 67)), rules=rules)["height"] == 67
    both = charted((226707, 1, 67), (226730, 1, 170))
    assert inputs(stay(), both, rules=rules)["height"] == 170
