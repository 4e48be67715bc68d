"""Items, cleaning and units of EHR events; which events belong to a stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.data.vocabulary import EHR_VARIABLES
from bench.errors import UserError
from bench.preparing.events import (
    Events,
    clean_events,
    official_items,
    ranges,
    read_raw_events,
)
from bench.preparing.rules import OFFICIAL, STRICT, Rules
from bench.preparing.stays import read_stays
from bench.preparing.tables import stream
from bench.preparing.workplace import Workplace
from tests.preparing.raw_tree import (
    CHART,
    FIO2,
    GCS_EYE,
    HEART_RATE,
    INR,
    INTIME,
    URINE,
    RawTree,
    plain_tree,
    stay_id,
    subject,
)

SPO2, FAHRENHEIT, GCS_VERBAL, GLUCOSE, CREATININE = 220277, 223761, 223900, 225664, 50912
DAY = 86_400


def cleaned(tree: RawTree, root: Path, rules: Rules = STRICT, until: int = 5 * DAY) -> Events:
    raw = tree.write(root)
    stays = read_stays(raw.mimic_iv)
    items = sorted(official_items())
    events = read_raw_events(raw.mimic_iv, stays, np.full(len(stays), until), items, rules)
    return clean_events(events, rules, Counter())


def one_value(item: int, value: object, root: Path, rules: Rules = STRICT) -> list[float]:
    tree = RawTree()
    tree.add_stay(0)
    tree.chart(0, 1, item, value)
    if item == URINE:
        tree.chart(0, 1, HEART_RATE, 80)
    else:
        tree.chart(0, 1, URINE, 80)
    events = cleaned(tree, root, rules)
    return events.value[events.variable == official_items()[item]].tolist()


def test_every_variable_has_one_official_item():
    assert sorted(official_items().values()) == list(range(len(EHR_VARIABLES)))
    assert official_items()[INR] == EHR_VARIABLES.index("Prothrombin time")
    assert official_items()[URINE] == EHR_VARIABLES.index("Urine output")


@pytest.mark.parametrize(
    ("item", "charted", "expected"),
    [
        (HEART_RATE, 88, [88]),
        (HEART_RATE, 2000, [390]),  # clipped to the outlier range
        (HEART_RATE, -5, [0]),
        (HEART_RATE, "88", [88]),  # no valuenum, but the text is a number
        (HEART_RATE, "nan", []),
        (FIO2, 50, [0.5]),
        (FIO2, 0.5, [0.5]),
        (FIO2, 1, [1.0]),
        (FIO2, 21, [0.21]),
        (SPO2, 97, [97]),
        (SPO2, 0.97, [97]),
        (FAHRENHEIT, 98.6, [37.0]),
        (FAHRENHEIT, 79, [pytest.approx(26.111, abs=1e-3)]),
        (FAHRENHEIT, 37, [37.0]),
        (GLUCOSE, "ERROR", []),
        (GCS_EYE, "None", [1]),
        (GCS_EYE, "Spontaneously", [4]),
        (GCS_EYE, "To Speech", [3]),
        (GCS_EYE, "no such words", []),
        (GCS_VERBAL, "No Response-ETT", [1]),
        (GCS_VERBAL, "1.0 ET/Trach", [1]),
        (GCS_VERBAL, "Oriented", [5]),
        (URINE, 60, [60]),
        (INR, 1.3, [1.3]),
        (220050, 120, None),  # an arterial line is no official item
    ],
)
def test_cleaning(item: int, charted: object, expected: list[float] | None, tmp_path: Path):
    if expected is None:
        assert item not in official_items()
    else:
        assert one_value(item, charted, tmp_path) == expected


def test_the_texts_of_the_coma_scale_win_over_valuenum(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    tree.chart(0, 1, URINE, 80)
    tree.chart(0, 1, GCS_EYE, "To Speech", valuenum=3)
    tree.chart(0, 2, GCS_EYE, "words of a later release", valuenum=2)
    events = cleaned(tree, tmp_path)
    assert events.value[events.variable == official_items()[GCS_EYE]].tolist() == [3, 2]


def test_official_cleaning(tmp_path: Path):
    fio2 = Rules("fio2", fio2_always_divided=True)
    assert one_value(FIO2, 0.5, tmp_path / "a", fio2) == [0.2]  # .005, clipped
    none = Rules("none", gcs_none_missing=True)
    assert one_value(GCS_EYE, "None", tmp_path / "b", none) == []
    inr = EHR_VARIABLES.index("Prothrombin time")
    assert ranges(STRICT).impute[inr] == 1.2
    assert ranges(Rules("inr", inr_filled_as_seconds=True)).impute[inr] == 14.5


def test_events_belong_to_a_stay_by_time(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0, los_hours=60)
    tree.add_stay(1, los_hours=60)
    tree.chart(0, 5, URINE, 1)
    for value, hours in ((1, -24.1), (2, -23.9), (3, -0.5), (4, 0), (5, 59.9), (6, 60.1)):
        tree.chart(0, hours, HEART_RATE, value)
    tree.chart(0, 30, HEART_RATE, 7, stay_id=None)
    tree.chart(1, 31, HEART_RATE, 8, subject_id=subject(0))
    heart_rate = official_items()[HEART_RATE]

    events = cleaned(tree, tmp_path / "a")
    strict = events.value[events.variable == heart_rate]
    assert strict.tolist() == [2, 3, 4, 7, 8, 5]
    assert (events.stay == 0).all()
    by_id = cleaned(tree, tmp_path / "b", Rules("by id", events_by_stay_id=True))
    assert by_id.value[by_id.variable == heart_rate].tolist() == [3, 4, 7, 8, 5, 6]


def test_events_after_the_last_window_are_not_even_read(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    tree.chart(0, 1, URINE, 1)
    tree.chart(0, 47.9, HEART_RATE, 80)
    tree.chart(0, 48, HEART_RATE, 81)
    assert cleaned(tree, tmp_path, until=2 * DAY - 1).value.tolist() == [80, 1]


def test_of_values_at_the_same_minute_the_largest_number_comes_last(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    tree.chart(0, 1, URINE, 1)
    for value in (98, 100, 99):
        tree.chart(0, 1, HEART_RATE, value)
    assert cleaned(tree, tmp_path).value.tolist() == [98, 99, 100, 1]


def test_events_are_found_in_any_row_order_and_with_decimal_points(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    tree.chart(0, 1, URINE, 1)
    tree.chart(0, 2, HEART_RATE, 80.5)
    tree.chart(0, 1, HEART_RATE, 79)
    tree.rows[CHART].insert(0, {**tree.rows[CHART][0], "itemid": 1, "value": 'a, "quoted" text'})
    events = cleaned(tree, tmp_path)
    assert events.seconds[events.variable == official_items()[HEART_RATE]].tolist() == [3600, 7200]
    assert tree.rows[CHART][0]["charttime"] == INTIME + pd.Timedelta(hours=2)
    assert tree.rows[CHART][0]["stay_id"] == stay_id(0)


def test_values_of_the_open_demo_are_those_of_the_release(mimic_iv_demo: Path):
    """Per variable over all events of the 140 stays, against statistics of the raw tables."""
    stays = read_stays(mimic_iv_demo)
    until = (stays["outtime"] - stays["intime"]).dt.total_seconds().to_numpy(np.int64)
    items = sorted(official_items())
    raw = read_raw_events(mimic_iv_demo, stays, until, items, STRICT)
    events = clean_events(raw, STRICT, Counter())
    statistics = mimic_iv_demo / "variable_stats.csv"
    if not statistics.is_file():
        pytest.skip("variable_stats.csv is not beside the demo")
    expected = pd.read_csv(statistics).set_index("variable").loc[list(EHR_VARIABLES)]
    converted = {"Fraction inspired oxygen": 1 / 100}
    for i, name in enumerate(EHR_VARIABLES):
        value = events.value[events.variable == i]
        mean = expected.loc[name, "mean"] * converted.get(name, 1)
        if name == "Temperature":
            mean = (mean - 32) * 5 / 9
        n_raw = expected.loc[name, "n_events"]
        # Baselines are shared by stays of one day; some rows lie in no stay.
        assert 0.85 * n_raw <= len(value) <= 1.25 * n_raw, name
        assert value.mean() == pytest.approx(mean, rel=0.12), name
        assert ranges(STRICT).low[i] <= value.min() <= value.max() <= ranges(STRICT).high[i]


def test_a_finished_table_is_not_read_again_unless_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tree = plain_tree(2)
    raw = tree.write(tmp_path / "raw")
    stays, items = read_stays(raw.mimic_iv), sorted(official_items())
    streamed: list[str] = []

    def counting(path: Path, *of: Any) -> None:
        streamed.append(path.stem)
        stream(path, *of)

    def read(until: int = 5 * DAY, rules: Rules = STRICT) -> pd.DataFrame:
        streamed.clear()
        work = Workplace(tmp_path / "work", jobs=2)
        last = np.full(len(stays), until)
        events = read_raw_events(raw.mimic_iv, stays, last, items, rules, work=work)
        return events.sort_values(["stay", "itemid", "seconds"], ignore_index=True)

    (tmp_path / "work").mkdir()
    monkeypatch.setattr("bench.preparing.events.stream", counting)
    first = read()
    assert streamed == ["chartevents", "outputevents"] and len(first) == 2 * 55 + 2
    pd.testing.assert_frame_equal(read(), first)
    assert streamed == []
    assert len(read(until=DAY)) < len(first) and len(streamed) == 2
    assert len(read(rules=OFFICIAL)) and len(streamed) == 2
    chart = raw.mimic_iv / "icu" / "chartevents.csv"
    chart.write_text(chart.read_text().replace(",60,60,", ",61,61,"))
    assert read()["number"].sum() == first["number"].sum() + 1
    assert streamed == ["chartevents"]


def test_too_little_memory_is_said_so(tmp_path: Path):
    raw = plain_tree(2).write(tmp_path / "raw")
    stays = read_stays(raw.mimic_iv)
    work = Workplace(tmp_path, memory_gb=1e-4)
    with pytest.raises(UserError, match=r"chartevents\.csv cannot be read.*--memory"):
        read_raw_events(raw.mimic_iv, stays, np.full(2, DAY), [HEART_RATE], STRICT, work=work)


def test_official_values_of_the_same_minute_are_sorted_as_text(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    for value in (98, 100, 99):
        tree.chart(0, 1, HEART_RATE, value)
        tree.chart(0, 1, SPO2, value)  # the official code has made numbers of these
    for value in (60, 100):
        tree.chart(0, 1, URINE, value)
    for value in ("To Speech", "Spontaneously"):
        tree.chart(0, 1, GCS_EYE, value)
    rules = Rules("text", sorted_as_text=True)
    events = cleaned(tree, tmp_path, rules)
    in_order = {
        item: events.value[events.variable == official_items()[item]].tolist()
        for item in (HEART_RATE, SPO2, URINE, GCS_EYE)
    }
    assert in_order == {
        HEART_RATE: [100, 98, 99],
        SPO2: [98, 99, 100],
        URINE: [100, 60],
        GCS_EYE: [4, 3],
    }


def test_text_order_changes_no_value(tmp_path: Path):
    tree = plain_tree(1)
    tree.chart(0, 1, GCS_EYE, "None")
    tree.chart(0, 2, HEART_RATE, "88")
    tree.chart(0, 3, GLUCOSE, "ERROR")
    strict = cleaned(tree, tmp_path / "a")
    as_text = cleaned(tree, tmp_path / "b", Rules("text", sorted_as_text=True))
    for name in vars(strict):
        assert getattr(as_text, name).tolist() == getattr(strict, name).tolist()


def test_as_known_an_event_counts_when_it_was_stored(tmp_path: Path):
    """Late entries wait for their storetime; an early or an absent one changes nothing."""
    tree = RawTree()
    tree.add_stay(0)

    def stored(hours: float) -> pd.Timestamp:
        return INTIME + pd.Timedelta(hours=hours)

    tree.chart(0, 1, HEART_RATE, 70, storetime=stored(1.5))
    tree.chart(0, 2, HEART_RATE, 80, storetime=stored(30))
    tree.chart(0, 3, HEART_RATE, 90)
    tree.chart(0, 4, URINE, 50, storetime=stored(3.5))
    tree.measure(0, 5, CREATININE, 1.5, storetime=stored(49))
    raw, hour = tree.write(tmp_path), 3600
    stays, items = read_stays(raw.mimic_iv), [HEART_RATE, URINE, CREATININE]

    def read(rules: Rules) -> dict[float, float]:
        until = np.full(len(stays), 2 * DAY - 1)
        events = read_raw_events(raw.mimic_iv, stays, until, items, rules)
        return dict(zip(events["number"], events["seconds"] / hour, strict=True))

    assert read(STRICT) == {70: 1, 80: 2, 90: 3, 50: 4, 1.5: 5}
    assert read(replace(STRICT, as_known=True)) == {70: 1.5, 80: 30, 90: 3, 50: 4}
    lab = raw.mimic_iv / "hosp" / "labevents.csv"
    lab.write_text(lab.read_text().replace("storetime", "stored"))
    assert read(STRICT)[1.5] == 5
    with pytest.raises(UserError, match=r"labevents\.csv has no column storetime"):
        read(replace(STRICT, as_known=True))


def test_a_wrong_storetime_is_named_with_its_row(tmp_path: Path):
    tree = plain_tree(1)
    tree.rows[CHART][3]["storetime"] = "yesterday"
    raw = tree.write(tmp_path)
    stays = read_stays(raw.mimic_iv)
    rules = replace(STRICT, as_known=True)
    with pytest.raises(UserError, match=r"chartevents\.csv, row 5, column storetime: 'yesterday'"):
        read_raw_events(raw.mimic_iv, stays, np.full(1, DAY), [HEART_RATE], rules)
