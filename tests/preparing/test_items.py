"""The two item maps: what they hold, and their counts on the open demo."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import prepare as command
from bench.data.cohort import Cohort
from bench.data.vocabulary import EHR_VARIABLES
from bench.errors import UserError
from bench.preparing.events import Events, clean_events, ranges, read_raw_events
from bench.preparing.items import (
    ITEMS,
    ItemMap,
    extended_items,
    official_items,
    table_of_item,
    variable_items,
)
from bench.preparing.rules import OFFICIAL, STRICT, Rules
from bench.preparing.stays import read_stays
from tests.preparing.raw_tree import (
    HEART_RATE,
    INR,
    URINE,
    RawTree,
    plain_tree,
    prepare,
)

CREATININE, CREATININE_LAB, CREATININE_URINE = 220615, 50912, 51082
PT_SECONDS, PT_LAB, INR_LAB = 227465, 51274, 51237
PEEP_SET, PEEP_LAB = 220339, 50819
CELSIUS, SPO2_LAB, SYSTOLIC_ARTERIAL, DIASTOLIC_ARTERIAL = 223762, 50817, 220050, 220051
DAY = 86_400


def index(variable: str) -> int:
    return EHR_VARIABLES.index(variable)


def cleaned(
    tree: RawTree, root: Path, item_map: ItemMap = ItemMap.EXTENDED, rules: Rules = STRICT
) -> tuple[Events, Counter[str]]:
    raw = tree.write(root)
    stays, oddities = read_stays(raw.mimic_iv), Counter[str]()
    until = np.full(len(stays), 5 * DAY)
    items = sorted(ITEMS[item_map]())
    events = read_raw_events(raw.mimic_iv, stays, until, items, rules, oddities=oddities)
    return clean_events(events, rules, oddities, item_map), oddities


def one_stay() -> RawTree:
    """A stay, and a row in every table that belongs to none."""
    tree = RawTree()
    tree.add_stay(0, los_hours=60)
    for item in (HEART_RATE, URINE):
        tree.chart(0, -500, item, 1)
    tree.measure(0, -500, CREATININE_LAB, 1)
    return tree


def values(events: Events, variable: str) -> list[float]:
    return events.value[events.variable == index(variable)].tolist()


def test_the_extended_map_holds_the_official_one_but_for_inr():
    official, extended = official_items(), extended_items()
    assert set(official) - set(extended) == {INR}
    assert all(extended[item] == of for item, of in official.items() if item != INR)
    assert {table_of_item()[item] for item in official} == {"chartevents", "outputevents"}
    assert {table_of_item()[item] for item in extended} == {*table_of_item().values()}


def test_every_variable_has_an_extended_item_of_its_own_quantity():
    extended = extended_items()
    assert sorted(set(extended.values())) == list(range(len(EHR_VARIABLES)))
    prothrombin = {item for item, of in extended.items() if of == index("Prothrombin time")}
    assert prothrombin == {PT_SECONDS, PT_LAB}
    assert extended[PEEP_SET] == extended[PEEP_LAB] == index("Positive end-expiratory pressure")
    other = variable_items().query("role == 'other_quantity'")["itemid"]
    assert CREATININE_URINE in set(other)
    assert not set(extended) & set(other)


def test_no_item_stands_for_two_variables():
    assert variable_items()["itemid"].is_unique


def test_starting_prothrombin_time_follows_the_unit():
    prothrombin = index("Prothrombin time")
    assert ranges(STRICT).impute[prothrombin] == 1.2
    assert ranges(STRICT, ItemMap.EXTENDED).impute[prothrombin] == 14.5
    others = np.arange(len(EHR_VARIABLES)) != prothrombin
    np.testing.assert_array_equal(
        ranges(STRICT).impute[others], ranges(STRICT, ItemMap.EXTENDED).impute[others]
    )


@pytest.mark.parametrize(
    ("item", "charted", "variable", "expected"),
    [
        (PT_SECONDS, 16.4, "Prothrombin time", [16.4]),
        (PT_SECONDS, 400, "Prothrombin time", [150]),  # clipped, as in the official map
        (INR, 1.3, "Prothrombin time", []),
        (PEEP_SET, 5, "Positive end-expiratory pressure", [5]),
        (CELSIUS, 36.6, "Temperature", [36.6]),
        (SYSTOLIC_ARTERIAL, 120, "Systolic blood pressure", [120]),
        (SYSTOLIC_ARTERIAL, "120/80", "Systolic blood pressure", [120]),
        (DIASTOLIC_ARTERIAL, "120/80", "Diastolic blood pressure", [80]),
        (DIASTOLIC_ARTERIAL, "120", "Diastolic blood pressure", [120]),
        (SYSTOLIC_ARTERIAL, "high/low", "Systolic blood pressure", []),
    ],
)
def test_charted_values(
    item: int, charted: object, variable: str, expected: list[float], tmp_path: Path
):
    tree = one_stay()
    tree.chart(0, 1, item, charted)
    assert values(cleaned(tree, tmp_path)[0], variable) == expected


@pytest.mark.parametrize(
    ("item", "value", "valuenum", "variable", "expected"),
    [
        (CREATININE_LAB, "1.4", 1.4, "Creatinine", [1.4]),
        (CREATININE_LAB, "___", 1.4, "Creatinine", [1.4]),  # the text is masked, the number not
        (CREATININE_LAB, "___", None, "Creatinine", []),
        (CREATININE_LAB, "1.4", None, "Creatinine", [1.4]),
        (CREATININE_LAB, "ERROR", None, "Creatinine", []),
        (CREATININE_LAB, None, None, "Creatinine", []),
        (CREATININE_LAB, "900", 900, "Creatinine", [66]),
        (CREATININE_URINE, "90", 90, "Creatinine", []),
        (SPO2_LAB, "0.97", 0.97, "Oxygen saturation", [97]),
        (INR_LAB, "1.3", 1.3, "Prothrombin time", []),
        (PT_LAB, "13.1", 13.1, "Prothrombin time", [13.1]),
    ],
)
def test_laboratory_values(
    item: int,
    value: str | None,
    valuenum: float | None,
    variable: str,
    expected: list[float],
    tmp_path: Path,
):
    tree = one_stay()
    tree.measure(0, 1, item, value, valuenum=valuenum)
    events, oddities = cleaned(tree, tmp_path)
    assert values(events, variable) == expected
    is_read = item in extended_items()
    assert oddities["charted values left out: no number"] == int(is_read and not expected)


def test_laboratory_values_belong_to_a_stay_by_subject_and_time(tmp_path: Path):
    tree = one_stay()
    tree.add_stay(1, los_hours=60)
    for value, hours in ((1, -24.1), (2, -23.9), (3, 0), (4, 60), (5, 60.1)):
        tree.measure(0, hours, CREATININE_LAB, value)
    tree.measure(1, 30, CREATININE_LAB, 6)
    tree.measure(7, 30, CREATININE_LAB, 7)
    strict, _ = cleaned(tree, tmp_path / "strict")
    assert values(strict, "Creatinine") == [2, 3, 4, 6]  # the day before is a baseline
    assert strict.stay.tolist() == [0, 0, 0, 1]
    by_id, _ = cleaned(tree, tmp_path / "official", rules=OFFICIAL)
    assert values(by_id, "Creatinine") == [3, 4, 6]  # no stay_id: inside the stay only


def test_an_event_without_time_or_subject_is_counted(tmp_path: Path):
    tree = one_stay()
    tree.chart(0, 1, HEART_RATE, 80)
    tree.chart(0, 2, HEART_RATE, 81, charttime=None)
    tree.measure(0, 2, CREATININE_LAB, 1.0, subject_id=None)
    tree.measure(0, 2, CREATININE_URINE, 1.0, charttime=None)  # not asked for
    events, oddities = cleaned(tree, tmp_path)
    assert events.value.tolist() == [80]
    assert oddities["charted values left out: no subject or no time"] == 2


def test_the_laboratory_is_not_read_for_the_official_map(tmp_path: Path):
    tree = one_stay()
    tree.chart(0, 1, HEART_RATE, 80)
    raw = tree.write(tmp_path)
    (raw.mimic_iv / "hosp" / "labevents.csv").unlink()
    stays = read_stays(raw.mimic_iv)
    until = np.array([5 * DAY])
    events = read_raw_events(raw.mimic_iv, stays, until, sorted(official_items()), STRICT)
    assert events["number"].tolist() == [80]
    with pytest.raises(UserError, match=r"labevents\.csv\[\.gz\] is not there"):
        read_raw_events(raw.mimic_iv, stays, until, sorted(extended_items()), STRICT)


def with_laboratory() -> RawTree:
    tree = plain_tree(10)
    for k in range(10):
        tree.measure(k, 4.5, CREATININE_LAB, 2.0 + k)
    return tree


def creatinine_at(cohort: Cohort, hour: int) -> np.ndarray:
    column = index("Creatinine")
    rows = cohort.stays["ehr_offset"].to_numpy() + hour
    return cohort.arrays["ehr_values"][rows, column]


def test_a_cohort_says_which_map_it_was_made_with(tmp_path: Path):
    official = prepare(with_laboratory(), tmp_path / "a")
    extended = prepare(with_laboratory(), tmp_path / "b", items=ItemMap.EXTENDED)
    assert official.manifest["ehr_items"] == "official"
    assert extended.manifest["ehr_items"] == "extended"
    assert (creatinine_at(official, 5) == 1.0).all()  # never observed: the starting value
    np.testing.assert_array_equal(creatinine_at(extended, 3), 1.0)
    assert sorted(creatinine_at(extended, 5)) == [2.0 + k for k in range(10)]


def test_the_option_of_the_command(tmp_path: Path, capsys):
    raw = with_laboratory().write(tmp_path / "raw")
    words = ["mimic", "--mimic-iv", str(raw.mimic_iv), "--mimic-cxr", str(raw.mimic_cxr)]
    words += ["--imagenome", str(raw.imagenome), "--simulated", "--out", str(tmp_path / "cohort")]
    words += ["--film-size", "16", "--region-size", "8", "--jobs", "1"]
    assert command.main([*words, "--items", "extended"]) == 0
    assert Cohort.open(tmp_path / "cohort").manifest["ehr_items"] == "extended"
    with pytest.raises(SystemExit):
        command.main([*words, "--force", "--items", "extented"])
    assert "did you mean 'extended'?" in capsys.readouterr().err


def everything(mimic_iv: Path, item_map: ItemMap) -> pd.DataFrame:
    """Every row of a map's items in the demo: one endless stay per subject."""
    patients = pd.read_csv(mimic_iv / "hosp" / "patients.csv.gz")["subject_id"]
    always = pd.DataFrame(
        {
            "subject_id": patients,
            "stay_id": -1,
            "intime": pd.Timestamp("2000-01-01"),
            "outtime": pd.Timestamp("2250-01-01"),
        }
    )
    until = np.full(len(always), 250 * 366 * DAY)
    raw = read_raw_events(mimic_iv, always, until, sorted(ITEMS[item_map]()), STRICT)
    return raw.assign(variable=raw["itemid"].map(ITEMS[item_map]()))


def test_the_extended_map_finds_the_events_of_the_demo(mimic_iv_demo: Path):
    """All rows per variable and per item, as the shipped table counts them in the release."""
    raw = everything(mimic_iv_demo, ItemMap.EXTENDED)
    table = variable_items()
    table = table[table["itemid"].isin(extended_items())]
    per_item = table.set_index("itemid")["demo_events"]
    found = raw["itemid"].value_counts().reindex(per_item.index, fill_value=0)
    assert found.to_dict() == per_item.to_dict()
    per_variable = table.groupby("variable")["demo_events"].sum()
    assert len(per_variable) == len(EHR_VARIABLES)
    for name, n_events in per_variable.items():
        assert (raw["variable"] == index(name)).sum() == n_events, name
    assert per_variable["Creatinine"] == 928 + 3003
    assert per_variable["Prothrombin time"] == 609 + 1481


def test_the_official_map_finds_the_statistics_of_the_demo(mimic_iv_demo: Path):
    """Count, mean and sd of every variable's charted numbers, before any conversion."""
    statistics = mimic_iv_demo / "variable_stats.csv"
    if not statistics.is_file():
        pytest.skip("variable_stats.csv is not beside the demo")
    expected = pd.read_csv(statistics).set_index("variable")
    raw = everything(mimic_iv_demo, ItemMap.OFFICIAL)
    counts = variable_items().set_index("itemid")["demo_events"]
    for item, of in official_items().items():
        name = EHR_VARIABLES[of]
        number = raw.loc[raw["variable"] == of, "number"]
        row = expected.loc[name]
        assert (item, len(number)) == (row["itemid"], row["n_events"]), name
        assert len(number) == counts[item]
        assert number.mean() == pytest.approx(row["mean"], abs=1e-3), name
        assert number.std() == pytest.approx(row["sd"], abs=2e-3, rel=2e-3), name


def test_inside_stays_the_laboratory_agrees_with_what_is_charted(mimic_iv_demo: Path):
    """The charted labs are copies of the laboratory's: medians agree, so units do."""
    stays = read_stays(mimic_iv_demo)
    until = np.full(len(stays), 30 * DAY)
    raw = read_raw_events(mimic_iv_demo, stays, until, sorted(extended_items()), OFFICIAL)
    is_lab = (raw["itemid"].map(table_of_item()) == "labevents").to_numpy()
    charted, lab = (
        clean_events(raw[part], STRICT, Counter(), ItemMap.EXTENDED) for part in (~is_lab, is_lab)
    )
    # PEEP is set or total; the laboratory gives no number for a troponin below its limit.
    apart = {index("Positive end-expiratory pressure"), index("Troponin-T")}
    compared = set(lab.variable) - apart
    assert len(compared) == 23
    for of in compared:
        medians = [np.median(part.value[part.variable == of]) for part in (charted, lab)]
        assert medians[1] == pytest.approx(medians[0], rel=0.15), EHR_VARIABLES[of]


def test_no_laboratory_event_lies_outside_its_stay_under_official_rules(mimic_iv_demo: Path):
    stays = read_stays(mimic_iv_demo)
    length = (stays["outtime"] - stays["intime"]).dt.total_seconds().to_numpy(np.int64)
    lab = [item for item in extended_items() if table_of_item()[item] == "labevents"]
    raw = read_raw_events(mimic_iv_demo, stays, length + DAY, lab, OFFICIAL)
    seconds, stay = raw["seconds"].to_numpy(), raw["stay"].to_numpy()
    assert len(raw) > 10_000
    assert ((seconds >= 0) & (seconds <= length[stay])).all()
