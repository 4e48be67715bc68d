"""ICU stays: which are kept, and their labels (paper, section 3.1)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.vocabulary import LENGTH_OF_STAY_EDGES_DAYS
from bench.preparing.attrition import Attrition
from bench.preparing.rules import FENCE_IQR, MIN_AGE_YEARS, MIN_LOS_DAYS, OFFICIAL, Rules
from bench.preparing.tables import (
    ADMISSIONS,
    ICU_STAYS,
    PATIENTS,
    find_table,
    read_table,
    refuse_first,
)

HOURS_PER_DAY = 24


def read_stays(mimic_iv: Path, oddities: Counter[str] | None = None) -> pd.DataFrame:
    """Read ICU stays with their admission and patient, one row a stay.

    `known` tells whether both the admission and the patient are in their tables.

    Raises:
        UserError: a table is missing or wrong, or a death flag is neither 0 nor 1.
    """
    stays = read_table(mimic_iv, ICU_STAYS, oddities)
    admissions = read_table(mimic_iv, ADMISSIONS, oddities)
    flag = "hospital_expire_flag"
    wrong = ~admissions[flag].isin([0, 1])
    refuse_first(find_table(mimic_iv, ADMISSIONS), admissions, flag, wrong, "0 or 1")
    patients = read_table(mimic_iv, PATIENTS, oddities)
    stays = stays.merge(admissions, how="left", on=["subject_id", "hadm_id"])
    stays = stays.merge(patients, how="left", on="subject_id")
    stays["known"] = stays["admittime"].notna() & stays["anchor_age"].notna()
    return stays


def select_stays(stays: pd.DataFrame, rules: Rules, attrition: Attrition) -> pd.DataFrame:
    """Apply the stay rules in the official order; return the kept stays with their labels.

    Added columns: los_days, age (years), mortality (0/1), length_of_stay (class). Rows are sorted
    by subject and intime. Stays above 48 h only: both ICU labels are given that condition.
    """
    stays = adult_stays(stays, rules, attrition)
    los_days = (stays["outtime"] - stays["intime"]).dt.total_seconds() / (HOURS_PER_DAY * 3600)
    stays = stays.assign(los_days=los_days)[los_days > MIN_LOS_DAYS]
    attrition.stays(f"length of stay above {MIN_LOS_DAYS * HOURS_PER_DAY:.0f} h", stays)
    if rules.los_fence:
        low, high = _fence(stays["los_days"])
        stays = stays[(stays["los_days"] > low) & (stays["los_days"] < high)]
        attrition.stays(f"length of stay inside {low:.2f} to {high:.2f} days", stays)
    stays = stays.assign(
        mortality=_died(stays, rules).astype(np.int8),
        length_of_stay=length_of_stay_class(stays["los_days"].to_numpy()),
    )
    return stays.sort_values(["subject_id", "intime", "stay_id"], ignore_index=True)


def adult_stays(stays: pd.DataFrame, rules: Rules, attrition: Attrition) -> pd.DataFrame:
    """The stays whose EHR the official code processes, of any length; adds age (years)."""
    attrition.stays("ICU stays", stays)
    _count_oddities(stays, attrition.oddities)
    stays = stays[stays["first_careunit"] == stays["last_careunit"]]
    attrition.stays("one care unit throughout", stays)
    # Counted after the rule above, as published: a transferred stay does not hide a plain one.
    alone = ~stays.duplicated("hadm_id", keep=False)
    stays = stays[alone & stays["known"]]
    attrition.stays("the only such stay of its admission", stays)
    stays = stays.assign(age=_age(stays, rules))
    stays = stays[stays["age"] >= MIN_AGE_YEARS]
    attrition.stays(f"age of {MIN_AGE_YEARS} or more", stays)
    return stays


def length_of_stay_class(los_days: np.ndarray) -> np.ndarray:
    """Class 0..3 of lengths of stay in days, int8; the last class has no upper end."""
    return (np.digitize(los_days, LENGTH_OF_STAY_EDGES_DAYS) - 1).astype(np.int8)


def _count_oddities(stays: pd.DataFrame, oddities: Counter[str]) -> None:
    """Stays that the rules leave out, or whose labels rest on one of two answers."""
    by_dates = _died(stays, OFFICIAL)
    oddities["stays left out: no admission or no patient"] += int((~stays["known"]).sum())
    oddities["stays left out: no outtime"] += int(stays["outtime"].isna().sum())
    oddities["stays left out: outtime before intime"] += int(
        (stays["outtime"] < stays["intime"]).sum()
    )
    oddities["admissions that end before they begin"] += int(
        (stays["dischtime"] < stays["admittime"]).sum()
    )
    oddities["stays whose death flag and dates disagree"] += int(
        (stays["known"] & (by_dates != (stays["hospital_expire_flag"] == 1))).sum()
    )


def _age(stays: pd.DataFrame, rules: Rules) -> pd.Series:
    if rules.anchor_age:
        return stays["anchor_age"]
    return stays["anchor_age"] + stays["admittime"].dt.year - stays["anchor_year"]


def _died(stays: pd.DataFrame, rules: Rules) -> pd.Series:
    """In-hospital death."""
    if not rules.death_by_dates:
        return stays["hospital_expire_flag"] == 1
    inside = [
        (stays[column] >= stays["admittime"]) & (stays[column] <= stays["dischtime"])
        for column in ("dod", "deathtime")
    ]
    return inside[0] | inside[1]


def _fence(values: pd.Series) -> tuple[float, float]:
    first, third = values.quantile([0.25, 0.75])
    reach = FENCE_IQR * (third - first)
    return first - reach, third + reach
