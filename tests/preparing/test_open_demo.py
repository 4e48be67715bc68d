"""The open MIMIC-IV demo against what is known of it: another data set, the files' own counts, the
raw rows read by hand, and the same rows in other clothes."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.data.cohort import Cohort
from bench.data.vocabulary import EHR_VARIABLES
from bench.preparing.describing import stay_rows
from bench.preparing.events import count_raw_events
from bench.preparing.items import official_items
from bench.preparing.mimic import Options, prepare_mimic
from bench.preparing.rules import STRICT
from bench.preparing.selection import RawFolders
from bench.preparing.stays import read_stays
from bench.preparing.workplace import Workplace
from tests.conftest import ROOT
from tests.preparing.conftest import FILM_HOURS
from tests.preparing.raw_tree import SIMULATED, SIZES

IN_YAIB = {
    "Alanine aminotransferase": "alt",
    "Albumin": "alb",
    "Alkaline phosphate": "alp",
    "Asparate aminotransferase": "ast",
    "Bicarbonate": "bicar",
    "Bilirubin": "bili",
    "Blood urea nitrogen": "bun",
    "Chloride": "cl",
    "Creatinine": "crea",
    "Diastolic blood pressure": "dbp",
    "Fraction inspired oxygen": "fio2",
    "Glucose": "glu",
    "Heart Rate": "hr",
    "Hemoglobin": "hgb",
    "Magnesium": "mg",
    "Mean blood pressure": "map",
    "Oxygen saturation": "o2sat",
    "Partial pressure of carbon dioxide": "pco2",
    "Partial thromboplastin time": "ptt",
    "Platelets": "plt",
    "Potassium": "k",
    "Prothrombin time": "inr_pt",
    "Respiratory rate": "resp",
    "Sodium": "na",
    "Systolic blood pressure": "sbp",
    "Temperature": "temp",
    "Troponin-T": "tnt",
    "Urine output": "urine",
    "White blood cell count": "wbc",
    "pH": "ph",
}
"""Name of a variable in the hourly series of YAIB's demo (MIMIC-III, 132 stays)."""

OFTEN_HOURS, WITHIN_IQR, WITHIN_IQR_SELDOM = 150, 0.6, 1.0
"""How far quartiles may lie apart, in the larger interquartile range: other patients of another
decade differ by at most 0.50 where both have this many observed hours (FiO2), else by at most 0.83
(the upper quartile of ALT); a wrong unit moves them by 1.5 (glucose in mmol/L) to hundreds."""


@pytest.fixture(scope="module")
def yaib_demo() -> Path:
    """Hourly series of the open MIMIC-III demo, if they are at hand."""
    folder = Path(os.environ.get("YAIB_DEMO", ROOT / "../shared/data/yaib_demo"))
    if not (folder / "los").is_dir():
        pytest.skip("set YAIB_DEMO to demo_data of the YAIB repository to run this test")
    return folder


def test_hourly_series_are_distributed_as_yaibs(open_demo: Cohort, yaib_demo: Path):
    """First 48 h of each stay, observed hours only."""
    theirs = pd.read_parquet(yaib_demo / "los" / "mimic_demo" / "dyn.parquet")
    theirs = theirs[theirs["time"] < pd.Timedelta(hours=48)]
    row, _ = stay_rows(open_demo)
    values, observed = (open_demo.arrays[name][row] for name in ("ehr_values", "ehr_observed"))
    for name, column in IN_YAIB.items():
        variable = EHR_VARIABLES.index(name)
        own = values[observed[:, variable], variable].astype(float)
        other = theirs[column].dropna() / (100 if column == "fio2" else 1)
        quartiles = [np.quantile(part, [0.25, 0.5, 0.75]) for part in (own, other)]
        iqr = max(high - low for low, _, high in quartiles)
        often = min(len(own), len(other)) >= OFTEN_HOURS
        apart = np.abs(quartiles[0] - quartiles[1]).max() / iqr
        assert apart <= (WITHIN_IQR if often else WITHIN_IQR_SELDOM), (name, quartiles)


def test_the_official_items_have_the_documented_medians_events_and_stays(
    mimic_iv_demo: Path, tmp_path: Path
):
    """Of all rows with the stay_id of one of the 140 stays, whenever charted."""
    statistics = mimic_iv_demo / "variable_stats.csv"
    if not statistics.is_file():
        pytest.skip("variable_stats.csv is not beside the demo")
    expected = pd.read_csv(statistics).set_index("variable")
    stays, items = read_stays(mimic_iv_demo), sorted(official_items())
    rules = replace(STRICT, events_by_stay_id=True)
    rows = count_raw_events(mimic_iv_demo, stays, items, items, rules, Workplace(tmp_path))
    found = {}
    for item, of in official_items().items():
        own = rows[rows["itemid"] == item]
        median = np.median(np.repeat(own["number"].to_numpy(), own["times"].to_numpy()))
        found[EHR_VARIABLES[of]] = (int(own["times"].sum()), own["stay"].nunique(), median)
    columns = ["n_events", "n_stays", "p50"]
    assert found == {name: tuple(row) for name, row in expected[columns].iterrows()}


HOURS_OF_STAY = (0, 1, 7, 23, 24, 47)
BY_HAND = {
    "Heart Rate": (220045, 86.0),
    "Mean blood pressure": (220181, 77.0),
    "Temperature": (223761, 37.0),
    "Fraction inspired oxygen": (223835, 0.21),
    "Creatinine": (220615, 1.0),
    "Potassium": (227442, 4.1),
    "Prothrombin time": (227467, 1.2),
    "Glascow coma scale verbal response": (223900, 4.0),
}
"""Item of a variable, and its value before anything is charted."""
VERBAL = {
    "No Response-ETT": 1,
    "No Response": 1,
    "Incomprehensible sounds": 2,
    "Inappropriate Words": 3,
    "Confused": 4,
    "Oriented": 5,
}


def by_hand(own: pd.DataFrame, name: str, begin: pd.Timestamp, end: pd.Timestamp) -> list[float]:
    """Value and flag of the row from `begin` to before `end`, from a stay's raw rows."""
    item, value = BY_HAND[name]
    known = own[(own["itemid"] == item) & (own["charttime"] < end)]
    if known.empty:
        return [value, 0]
    last = known[known["charttime"] == known["charttime"].max()]
    if name.startswith("Glascow"):
        value = last["value"].map(VERBAL).max()
    else:
        value = last["valuenum"].max()
    if name == "Temperature":
        value = (value - 32) * 5 / 9
    if name == "Fraction inspired oxygen":
        value = value / 100
    return [value, float(last["charttime"].max() >= begin)]


@pytest.mark.parametrize(("stay_id", "is_pair"), [(37093652, False), (32128372, True)])
def test_windows_are_those_read_by_hand(
    open_demo: Cohort, mimic_iv_demo: Path, stay_id: int, is_pair: bool
):
    """From rows of 24 h before admission to discharge; a pair's last row ends with its film."""
    stay = pd.read_csv(mimic_iv_demo / "icu" / "icustays.csv.gz", parse_dates=["intime", "outtime"])
    stay = stay[stay["stay_id"] == stay_id].iloc[0]
    hour, begin = pd.Timedelta(hours=1), stay["intime"]
    rows = pd.read_csv(mimic_iv_demo / "icu" / "chartevents.csv.gz", parse_dates=["charttime"])
    own = rows[(rows["subject_id"] == stay["subject_id"])]
    own = own[own["charttime"].between(begin - 24 * hour, stay["outtime"])]
    row = json.loads((open_demo.path / "identifiers.json").read_text())["stays"].index(stay_id)
    if is_pair:
        pair = open_demo.pairs[open_demo.pairs["stay"] == row].iloc[1]
        first, last = int(FILM_HOURS[1]), int(FILM_HOURS[2])
        assert (pair["first_hour"], pair["n_hours"]) == (first, last - first + 1)
        offset, hours = pair["ehr_offset"] - first, range(first, last + 1)
        film = begin + pd.Timedelta(hours=FILM_HOURS[2])
    else:
        offset, hours, film = open_demo.stays["ehr_offset"][row], HOURS_OF_STAY, stay["outtime"]
    n_observed = 0
    for name in BY_HAND:
        column = EHR_VARIABLES.index(name)
        for at in hours:
            end = min(begin + (at + 1) * hour, film + pd.Timedelta(seconds=1))
            value, observed = by_hand(own, name, begin + at * hour, end)
            found = [
                open_demo.arrays[n][offset + at, column] for n in ("ehr_values", "ehr_observed")
            ]
            assert found == [pytest.approx(value, rel=1e-6), bool(observed)], (name, at)
            n_observed += bool(observed)
    assert n_observed >= len(BY_HAND)


@pytest.mark.slow
def test_row_and_column_order_line_ends_and_packing_change_nothing(
    open_demo_raw: RawFolders, open_demo: Cohort, tmp_path: Path
):
    for packed in sorted(open_demo_raw.mimic_iv.glob("*/*.csv.gz")):
        table = pd.read_csv(packed, dtype=str, keep_default_na=False)
        shuffled = table.sample(frac=1, random_state=zlib.crc32(packed.name.encode()))
        file = tmp_path / "mimic-iv" / packed.parent.name / packed.name.removesuffix(".gz")
        file.parent.mkdir(parents=True, exist_ok=True)
        shuffled.iloc[:, ::-1].to_csv(file, index=False, lineterminator="\r\n")
    raw = replace(open_demo_raw, mimic_iv=tmp_path / "mimic-iv")
    options = Options(STRICT, SIZES)
    again = prepare_mimic(raw, SIMULATED, tmp_path / "cohort", options, lambda line: None)
    assert again.content_hash == open_demo.content_hash
    assert (raw.mimic_iv / "icu" / "chartevents.csv").read_bytes().count(b"\r\n") > 250_000
