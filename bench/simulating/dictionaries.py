"""Dictionaries of items and diagnoses that readers of MIMIC-IV expect beside the big tables."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import numpy as np
import pandas as pd

from bench.simulating.identifiers import Identifiers
from bench.simulating.physiology import GCS_TEXT
from bench.simulating.population import ACUTE_PROCESSES, ORGANS, Population

Diagnosis = tuple[str, int, str]
"""icd_code, icd_version, long_title."""

DIAGNOSES: Final[dict[str, Diagnosis]] = {
    "shock": ("0389", 9, "Unspecified septicemia"),
    "renal": ("N179", 10, "Acute kidney failure, unspecified"),
    "edema": ("J810", 10, "Acute pulmonary edema"),
    "effusion": ("J90", 10, "Pleural effusion, not elsewhere classified"),
    "atelectasis": ("J9811", 10, "Atelectasis"),
    "pneumonia": ("J189", 10, "Pneumonia, unspecified organism"),
}
"""What a stay is coded with, by the process or organ that was ill."""

HYPERTENSION: Final[Diagnosis] = ("I10", 10, "Essential (primary) hypertension")
"""Everybody's last diagnosis, so that no admission is without one."""

ILL: Final = 0.8
"""Peak from which a process or organ is coded."""


def item_tables(itemids: set[int]) -> dict[str, pd.DataFrame]:
    """d_items and d_labitems of the items that the event tables hold."""
    items = pd.read_csv(str(files("bench.data") / "ehr_variables.csv"))
    items = items[items["itemid"].isin(itemids)].sort_values("itemid")
    labs = items[items["table"] == "labevents"]
    charted = items[items["table"] != "labevents"]
    label = labs["source_label"].str.extract(r"^(?P<label>.*) \[(?P<fluid>.*)\]$")
    is_clotting = label["label"].str.startswith("INR")
    return {
        "icu/d_items": pd.DataFrame(
            {
                "itemid": charted["itemid"],
                "label": charted["source_label"],
                "abbreviation": charted["source_label"],
                "linksto": charted["table"],
                "category": np.where(charted["table"] == "outputevents", "Output", "Charted"),
                "unitname": charted["unit"].where(~charted["itemid"].isin(GCS_TEXT)),
                "param_type": np.where(charted["itemid"].isin(GCS_TEXT), "Text", "Numeric"),
                "lownormalvalue": np.nan,
                "highnormalvalue": np.nan,
            }
        ),
        "hosp/d_labitems": pd.DataFrame(
            {
                "itemid": labs["itemid"],
                "label": label["label"],
                "fluid": label["fluid"],
                "category": np.where(is_clotting, "Hematology", "Chemistry"),
            }
        ),
    }


def diagnosis_tables(population: Population, ids: Identifiers) -> dict[str, pd.DataFrame]:
    """diagnoses_icd from what was ill during each stay, and the titles of its codes."""
    course, rows = population.course, []
    names = (*ACUTE_PROCESSES, *ORGANS)
    for stay, subject in enumerate(population.stays["subject"]):
        until = max(int(24 * population.stays["los_days"].iloc[stay]), 1)
        latents = np.concatenate([course.acute[stay], course.organs[stay]])[:, :until]
        ill = {names[k].partition("_")[0] for k in np.flatnonzero(latents.max(axis=1) > ILL)}
        coded = [entry for name, entry in DIAGNOSES.items() if name in ill]
        for rank, (code, version, _) in enumerate([*coded, HYPERTENSION], 1):
            rows.append((ids.subject_id[subject], ids.hadm_id[stay], rank, code, version))
    columns = ["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"]
    titles = sorted([*DIAGNOSES.values(), HYPERTENSION])
    return {
        "hosp/diagnoses_icd": pd.DataFrame(rows, columns=columns),
        "hosp/d_icd_diagnoses": pd.DataFrame(
            titles, columns=["icd_code", "icd_version", "long_title"]
        ),
    }
