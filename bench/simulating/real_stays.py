"""Films for the stays of a real MIMIC-IV directory, driven by each stay's own EHR."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.vocabulary import EHR_VARIABLES
from bench.errors import UserError
from bench.simulating.identifiers import Identifiers, draw_identifiers
from bench.simulating.physiology import FIO2, GCS_TEXT, TEMPERATURE, URINE, VARIABLES
from bench.simulating.populate import population_from_stays
from bench.simulating.population import Population


def population_of(mimic_iv: Path, seed: int) -> tuple[Population, Identifiers]:
    """Plan films and reports for every stay of a day or more.

    Raises:
        UserError: the directory lacks a table or a column.
    """
    raw = _read(mimic_iv, "icu/icustays", ["subject_id", "hadm_id", "stay_id", "intime", "outtime"])
    raw["intime"], raw["outtime"] = pd.to_datetime(raw["intime"]), pd.to_datetime(raw["outtime"])
    raw["los_days"] = (raw["outtime"] - raw["intime"]).dt.total_seconds() / 86400
    raw = raw[raw["los_days"] >= 1].sort_values(["subject_id", "intime"], ignore_index=True)
    patients = _read(mimic_iv, "hosp/patients", ["subject_id", "gender", "anchor_age"])
    people = patients[patients["subject_id"].isin(raw["subject_id"])].reset_index(drop=True)
    subjects = pd.DataFrame(
        {"sex": people["gender"], "age": people["anchor_age"].astype(float), "bmi": 28.0}
    )
    row_of = pd.Series(people.index, index=people["subject_id"])
    stays = pd.DataFrame({"subject": row_of[raw["subject_id"]].to_numpy()}).assign(
        los_days=raw["los_days"]
    )
    population = population_from_stays(subjects, stays, _hourly(mimic_iv, raw), seed)
    drawn = draw_identifiers(population)
    ids = replace(
        drawn,
        subject_id=people["subject_id"].to_numpy(),
        hadm_id=raw["hadm_id"].to_numpy(),
        stay_id=raw["stay_id"].to_numpy(),
        intime=raw["intime"].to_numpy().astype("datetime64[s]"),
    )
    return population, ids


def _read(root: Path, name: str, columns: list[str]) -> pd.DataFrame:
    for suffix in (".csv", ".csv.gz"):
        path = root / f"{name}{suffix}"
        if path.is_file():
            try:
                return pd.read_csv(path, usecols=columns, keep_default_na=False, na_values=[""])
            except ValueError as error:
                raise UserError(f"{path}: {error}: is it a MIMIC-IV table?")
    raise UserError(f"{root / name}.csv(.gz) is not there: give --mimic-iv a MIMIC-IV directory")


def _hourly(mimic_iv: Path, stays: pd.DataFrame) -> list[np.ndarray]:
    """Per stay float [L, 38]: the official items, carried forward, NaN before the first."""
    item_of = {variable.itemid: variable.name for variable in VARIABLES}
    chart = _read(
        mimic_iv, "icu/chartevents", ["stay_id", "charttime", "itemid", "value", "valuenum"]
    )
    output = _read(mimic_iv, "icu/outputevents", ["stay_id", "charttime", "itemid", "value"])
    output = output.assign(valuenum=pd.to_numeric(output["value"], errors="coerce"))
    events = pd.concat([chart, output[output["itemid"] == URINE]])
    events = events[events["itemid"].isin(item_of)].merge(
        stays[["stay_id", "intime"]].assign(stay=stays.index), on="stay_id"
    )
    events["hour"] = (
        (pd.to_datetime(events["charttime"]) - events["intime"]).dt.total_seconds() // 3600
    ).astype(int)
    events["number"] = _cleaned(events)
    matrices = []
    for stay, los_days in enumerate(stays["los_days"]):
        own = events[(events["stay"] == stay) & (events["hour"] >= 0)]
        wide = own.pivot_table(index="hour", columns="itemid", values="number", aggfunc="last")
        wide = wide.rename(columns=item_of).reindex(
            index=range(int(24 * los_days) + 1), columns=list(EHR_VARIABLES)
        )
        matrices.append(wide.ffill().to_numpy())
    return matrices


def _cleaned(events: pd.DataFrame) -> np.ndarray:
    """Numbers in our units: fraction of oxygen, degrees Celsius, coma scores."""
    number = events["valuenum"].to_numpy(dtype=float)
    item = events["itemid"].to_numpy()
    for itemid, texts in GCS_TEXT.items():
        score = events["value"].map({text: k for k, text in enumerate(texts, 1)})
        number = np.where(item == itemid, score, number)
    number = np.where((item == FIO2) & (number > 1), number / 100, number)
    return np.where(item == TEMPERATURE, (number - 32) * 5 / 9, number)
