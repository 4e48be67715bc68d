"""The simulated stays as MIMIC-IV tables (columns and order of release 2.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from bench.simulating.dictionaries import diagnosis_tables, item_tables
from bench.simulating.identifiers import SECOND, Identifiers, draw_unused, seconds
from bench.simulating.physiology import VARIABLES
from bench.simulating.population import Population
from bench.simulating.streams import Tag, stream

UNITS: Final = (
    "Medical Intensive Care Unit (MICU)",
    "Surgical Intensive Care Unit (SICU)",
    "Medical/Surgical Intensive Care Unit (MICU/SICU)",
    "Cardiac Vascular Intensive Care Unit (CVICU)",
    "Coronary Care Unit (CCU)",
    "Trauma SICU (TSICU)",
)
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR
TWO_STAYS: Final = "two_stays_in_admission"
MEASURES: Final = [v.itemid for v in VARIABLES if v.name in ("Height", "Weight")]


def write_mimic_iv(root: Path, population: Population, ids: Identifiers, gzip: bool) -> None:
    """Write hosp/ and icu/ below `root`."""
    stays = _stay_times(population, ids)
    itemids = set(population.events["itemid"].unique())
    tables = {
        "hosp/patients": _patients(population, ids, stays),
        "hosp/admissions": _admissions(population, ids, stays),
        "icu/icustays": _icustays(population, ids, stays),
        **_event_tables(population, ids, stays),
        **item_tables(itemids),
        **diagnosis_tables(population, ids),
    }
    for name, table in tables.items():
        write_csv(root / f"{name}.csv", table, gzip)


def write_csv(path: Path, table: pd.DataFrame, gzip: bool) -> None:
    """Write a table as MIMIC does; times as 'YYYY-MM-DD HH:MM:SS', empty where null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table.copy()
    for column in table.select_dtypes("datetime"):
        table[column] = table[column].dt.strftime("%Y-%m-%d %H:%M:%S")
    if gzip:
        # Without a time in its header the same table gives the same bytes.
        table.to_csv(f"{path}.gz", index=False, compression={"method": "gzip", "mtime": 0})
    else:
        table.to_csv(path, index=False, lineterminator="\n")


def _stay_times(population: Population, ids: Identifiers) -> pd.DataFrame:
    """Admission, ICU and death times of every stay."""
    rng = stream(population.seed, Tag.WRITING, 1)
    stays = population.stays
    n = len(stays)
    intime = ids.intime
    outtime = intime + seconds(stays["los_days"] * 24)
    admitted = intime - (rng.integers(30, 600, n) * 60) * SECOND
    # The other stay of the admission comes first: see `_icustays`.
    admitted = np.where(stays["kind"] == TWO_STAYS, admitted - 35 * HOUR, admitted)
    admitted = admitted.astype("datetime64[m]").astype("datetime64[s]")
    died = stays["died"].to_numpy()
    death = intime + seconds(np.nan_to_num(stays["death_hours"]))
    home = outtime + rng.integers(4 * 3600, 6 * 86400, n) * SECOND
    discharged = np.where(died, np.maximum(death, outtime), home).astype("datetime64[m]")
    return pd.DataFrame(
        {
            "admittime": admitted,
            "dischtime": discharged.astype("datetime64[s]"),
            "deathtime": pd.Series(death.astype("datetime64[m]").astype("datetime64[s]")).where(
                died
            ),
            "intime": intime,
            "outtime": outtime,
            "unit": rng.integers(0, len(UNITS), n),
        }
    )


LATER_DEATHS: Final = 0.15


def _patients(population: Population, ids: Identifiers, stays: pd.DataFrame) -> pd.DataFrame:
    subject = population.stays["subject"].to_numpy()
    first = stays.groupby(subject)["admittime"].min()
    died = stays["deathtime"].groupby(subject).max()
    # Some deaths after discharge are known too, from state records.
    rng = stream(population.seed, Tag.WRITING, 6)
    later = stays["dischtime"].groupby(subject).max() + rng.integers(2, 365, len(first)) * DAY
    dod = died.fillna(later.where(rng.random(len(first)) < LATER_DEATHS))
    return pd.DataFrame(
        {
            "subject_id": ids.subject_id,
            "gender": population.subjects["sex"],
            "anchor_age": population.subjects["age"].astype(int),
            "anchor_year": first.dt.year.to_numpy(),
            "anchor_year_group": "2014 - 2016",
            "dod": dod.dt.strftime("%Y-%m-%d").to_numpy(),
        }
    )


def _admissions(population: Population, ids: Identifiers, stays: pd.DataFrame) -> pd.DataFrame:
    subject = population.stays["subject"].to_numpy()
    people = population.subjects.iloc[subject].reset_index(drop=True)
    died = population.stays["died"].to_numpy()
    return pd.DataFrame(
        {
            "subject_id": ids.subject_id[subject],
            "hadm_id": ids.hadm_id,
            "admittime": stays["admittime"],
            "dischtime": stays["dischtime"],
            "deathtime": stays["deathtime"],
            "admission_type": "EW EMER.",
            "admit_provider_id": "P00000",
            "admission_location": "EMERGENCY ROOM",
            "discharge_location": np.where(died, "DIED", "HOME"),
            "insurance": "Other",
            "language": people["language"],
            "marital_status": people["marital_status"],
            "race": people["race"],
            "edregtime": pd.NaT,
            "edouttime": pd.NaT,
            "hospital_expire_flag": died.astype(int),
        }
    )


def _icustays(population: Population, ids: Identifiers, stays: pd.DataFrame) -> pd.DataFrame:
    kind = population.stays["kind"].to_numpy()
    unit = stays["unit"].to_numpy()
    moved = np.where(kind == "unit_transfer", (unit + 1) % len(UNITS), unit)
    table = pd.DataFrame(
        {
            "subject_id": ids.subject_id[population.stays["subject"]],
            "hadm_id": ids.hadm_id,
            "stay_id": ids.stay_id,
            "first_careunit": np.array(UNITS)[unit],
            "last_careunit": np.array(UNITS)[moved],
            "intime": stays["intime"],
            "outtime": stays["outtime"],
        }
    )
    # Another stay in the same admission, so that the rule about one stay has work to do.
    again = table[kind == TWO_STAYS].copy()
    rng = stream(population.seed, Tag.WRITING, 7)
    again["stay_id"] = draw_unused(rng, 30_000_000, ids.stay_id, len(again))
    again["outtime"] = again["intime"] - 5 * HOUR
    again["intime"] = again["outtime"] - 30 * HOUR
    table = pd.concat([table, again], ignore_index=True)
    days = (table["outtime"] - table["intime"]).dt.total_seconds() / 86400
    return table.assign(los=days)


def _event_tables(
    population: Population, ids: Identifiers, stays: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """chartevents, outputevents and labevents; charted to the minute."""
    events = population.events
    rng = stream(population.seed, Tag.WRITING, 8)
    stay = events["stay"].to_numpy()
    charted = stays["intime"].to_numpy().astype("datetime64[s]")[stay] + seconds(events["hours"])
    charted = charted.astype("datetime64[m]").astype("datetime64[s]")
    subject = population.stays["subject"].to_numpy()[stay]
    common = pd.DataFrame(
        {
            "subject_id": ids.subject_id[subject],
            "hadm_id": ids.hadm_id[stay],
            "stay_id": ids.stay_id[stay],
            "caregiver_id": rng.integers(10_000, 100_000, len(stay)),
            "charttime": charted,
        }
    )
    rows = pd.concat(
        [common, events.drop(columns=["stay", "hours"]).reset_index(drop=True)], axis=1
    )
    is_charted = (rows["table"] == "chartevents").to_numpy()
    outside = _charted_outside(rows[is_charted], stays.iloc[stay[is_charted]])
    tables = {
        "chartevents": pd.concat([rows[is_charted], outside], ignore_index=True),
        "outputevents": rows[rows["table"] == "outputevents"],
        "labevents": rows[rows["table"] == "labevents"],
    }
    tables = {name: _stored(name, table, rng) for name, table in tables.items()}
    front = [*common.columns, "storetime", "itemid", "value"]
    return {
        "icu/chartevents": tables["chartevents"].assign(warning=0)[
            [*front, "valuenum", "valueuom", "warning"]
        ],
        "icu/outputevents": tables["outputevents"][[*front, "valueuom"]],
        "hosp/labevents": _labevents(tables["labevents"]),
    }


def _charted_outside(rows: pd.DataFrame, stays: pd.DataFrame) -> pd.DataFrame:
    """Copies of a few rows (`stays`: theirs) charted outside the stay that their stay_id names.

    Measures more than a day before it, other items within two hours after it.
    """
    chosen = np.arange(len(rows)) % 251 == 250
    rows, stays = rows[chosen], stays[chosen]
    minutes = np.arange(len(rows)) % 120 * 60 * SECOND
    before = stays["intime"].to_numpy() - 25 * HOUR - minutes
    after = stays["outtime"].to_numpy() + 60 * SECOND + minutes
    times = np.where(rows["itemid"].isin(MEASURES), before, after)
    return rows.assign(charttime=times.astype("datetime64[m]").astype("datetime64[s]"))


STORED_AFTER_HOURS: Final = {
    "chartevents": (0.2, 1.0),
    "outputevents": (0.28, 1.3),
    "labevents": (1.1, 0.91),
}
"""Median and log-sd of the time from charting to storing, after the open demo."""


def _stored(name: str, table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Add when a value was confirmed; one output in six is entered before its time is up."""
    median, log_sd = STORED_AFTER_HOURS[name]
    hours = (median * np.exp(log_sd * rng.standard_normal(len(table)))).clip(max=28 * 24)
    if name == "outputevents":
        hours = np.where(rng.random(len(table)) < 0.16, -0.25, hours)
    stored = table["charttime"].to_numpy() + seconds(hours)
    return table.assign(storetime=stored.astype("datetime64[m]").astype("datetime64[s]"))


def _labevents(rows: pd.DataFrame) -> pd.DataFrame:
    n = np.arange(len(rows))
    return pd.DataFrame(
        {
            "labevent_id": 1 + n,
            "subject_id": rows["subject_id"].to_numpy(),
            # A quarter of real rows name no admission.
            "hadm_id": pd.Series(rows["hadm_id"].to_numpy(), dtype="Int64").where(n % 4 > 0),
            "specimen_id": 55_000_000 + n,
            "itemid": rows["itemid"].to_numpy(),
            "order_provider_id": "P00000",
            "charttime": rows["charttime"].to_numpy(),
            "storetime": rows["storetime"].to_numpy(),
            # Some values are blanked, with their number left.
            "value": rows["value"].where(n % 17 > 0, "___").to_numpy(),
            "valuenum": rows["valuenum"].to_numpy(),
            "valueuom": rows["valueuom"].to_numpy(),
            "ref_range_lower": np.nan,
            "ref_range_upper": np.nan,
            "flag": None,
            "priority": "ROUTINE",
            "comments": None,
        }
    )
