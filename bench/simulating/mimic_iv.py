"""The simulated stays as MIMIC-IV tables (columns and order of release 2.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from bench.simulating.identifiers import SECOND, Identifiers, seconds
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


def write_mimic_iv(root: Path, population: Population, ids: Identifiers, gzip: bool) -> None:
    """Write hosp/ and icu/ below `root`."""
    stays = _stay_times(population, ids)
    tables = {
        "hosp/patients": _patients(population, ids, stays),
        "hosp/admissions": _admissions(population, ids, stays),
        "icu/icustays": _icustays(population, ids, stays),
        **_event_tables(population, ids, stays),
        **_dictionaries(ids),
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


def _patients(population: Population, ids: Identifiers, stays: pd.DataFrame) -> pd.DataFrame:
    subject = population.stays["subject"].to_numpy()
    first = stays.groupby(subject)["admittime"].min()
    dod = stays["deathtime"].groupby(subject).max().dt.strftime("%Y-%m-%d")
    return pd.DataFrame(
        {
            "subject_id": ids.subject_id,
            "gender": population.subjects["sex"],
            "anchor_age": population.subjects["age"].astype(int),
            "anchor_year": first.dt.year.to_numpy(),
            "anchor_year_group": "2014 - 2016",
            "dod": dod.to_numpy(),
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
    # A second stay in the same admission, so that the rule about one stay has work to do.
    again = table[kind == "two_stays_in_admission"].copy()
    again["stay_id"] = 40_000_000 + np.arange(len(again))
    again["intime"] = again["outtime"] + 5 * HOUR
    again["outtime"] = again["intime"] + 30 * HOUR
    table = pd.concat([table, again], ignore_index=True)
    days = (table["outtime"] - table["intime"]).dt.total_seconds() / 86400
    return table.assign(los=days)


def _event_tables(
    population: Population, ids: Identifiers, stays: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """chartevents, outputevents and labevents; charted to the minute."""
    events = population.events
    stay = events["stay"].to_numpy()
    charted = stays["intime"].to_numpy().astype("datetime64[s]")[stay] + seconds(events["hours"])
    charted = charted.astype("datetime64[m]").astype("datetime64[s]")
    subject = population.stays["subject"].to_numpy()[stay]
    common = pd.DataFrame(
        {
            "subject_id": ids.subject_id[subject],
            "hadm_id": ids.hadm_id[stay],
            "stay_id": ids.stay_id[stay],
            "caregiver_id": 0,
            "charttime": charted,
            "storetime": charted + 10 * 60 * SECOND,
        }
    )
    rows = pd.concat(
        [common, events.drop(columns=["stay", "hours"]).reset_index(drop=True)], axis=1
    )
    by_table = dict(iter(rows.groupby("table")))
    front = list(common.columns)
    chart = by_table["chartevents"].assign(warning=0)
    output = by_table["outputevents"]
    return {
        "icu/chartevents": chart[[*front, "itemid", "value", "valuenum", "valueuom", "warning"]],
        "icu/outputevents": output[[*front, "itemid", "value", "valueuom"]],
        "hosp/labevents": _labevents(by_table["labevents"]),
    }


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
            "storetime": rows["charttime"].to_numpy() + HOUR,
            "value": rows["value"].to_numpy(),
            "valuenum": rows["valuenum"].to_numpy(),
            "valueuom": rows["valueuom"].to_numpy(),
            "ref_range_lower": np.nan,
            "ref_range_upper": np.nan,
            "flag": None,
            "priority": "ROUTINE",
            "comments": None,
        }
    )


def _dictionaries(ids: Identifiers) -> dict[str, pd.DataFrame]:
    """Small tables that readers of MIMIC-IV expect to find."""
    diagnoses = pd.DataFrame(
        {
            "subject_id": ids.subject_id[:1],
            "hadm_id": ids.hadm_id[:1],
            "seq_num": 1,
            "icd_code": "0389",
            "icd_version": 9,
        }
    )
    titles = pd.DataFrame(
        {"icd_code": ["0389"], "icd_version": [9], "long_title": ["Unspecified septicemia"]}
    )
    return {"hosp/diagnoses_icd": diagnoses, "hosp/d_icd_diagnoses": titles}
