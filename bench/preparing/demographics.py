"""The 17 demographic inputs of a stay; NaN where unknown."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from bench.data.vocabulary import DEMOGRAPHIC_GROUPS, DEMOGRAPHICS
from bench.preparing.rules import Rules

CM_PER_INCH: Final = 2.54
KG_PER_POUND: Final = 0.453592

HEIGHT_CM, HEIGHT_INCHES = 226730, 226707
WEIGHT_DAILY_KG, WEIGHT_ADMISSION_KG, WEIGHT_ADMISSION_POUNDS = 224639, 226512, 226531

MEASURES: Final = {
    "height": ((HEIGHT_CM, HEIGHT_INCHES), 240.0),
    "weight": ((WEIGHT_DAILY_KG, WEIGHT_ADMISSION_KG, WEIGHT_ADMISSION_POUNDS), 250.0),
}
"""Items that chart a measure, and the largest valid value in cm or kg."""

MEASURE_ITEMS: Final = [item for items, _ in MEASURES.values() for item in items]

RACE_GROUPS: Final = {
    "ASIAN": "ASIAN",
    "BLACK": "BLACK/AFRICAN AMERICAN",
    "HISPANIC": "HISPANIC/LATINO",
    "WHITE": "WHITE",
    "OTHER": "OTHER",
    "AMERICAN INDIAN": "OTHER",
    "NATIVE HAWAIIAN": "OTHER",
    "SOUTH AMERICAN": "OTHER",
    "MULTIPLE RACE": "OTHER",
    "UNKNOWN": "UNKNOWN/UNABLE TO OBTAIN/PATIENT DECLINED TO ANSWER",
    "UNABLE": "UNKNOWN/UNABLE TO OBTAIN/PATIENT DECLINED TO ANSWER",
    "PATIENT DECLINED": "UNKNOWN/UNABLE TO OBTAIN/PATIENT DECLINED TO ANSWER",
}
"""How a race string begins -> its group; one that begins with none of these is unknown."""


def demographics(
    stays: pd.DataFrame, raw_events: pd.DataFrame, known_until: np.ndarray, rules: Rules
) -> np.ndarray:
    """Return float32 [stays, 17] in the order of `DEMOGRAPHICS`.

    Args:
        stays: columns age, gender, race, language, marital_status
        raw_events: charted heights and weights among other events (see `events.read_raw_events`)
        known_until: int64 [stays]; seconds since ICU admission from which on a charted height or
            weight is not known (a stay has one row, so this is its first prediction time)
        rules: the rules
    """
    columns = pd.DataFrame(np.nan, index=stays.index, columns=list(DEMOGRAPHICS))
    columns["age"] = stays["age"]
    for name in MEASURES:
        columns[name] = _first_measure(name, raw_events, known_until, rules)
    categories = {
        "gender_": stays["gender"],
        "race_group_": stays["race"].map(race_group),
        "language_": stays["language"].map(_language),
        "marital_status_": stays["marital_status"],
    }
    for prefix in DEMOGRAPHIC_GROUPS:
        for column in members(prefix):
            known = categories[prefix].isin([name.removeprefix(prefix) for name in members(prefix)])
            is_it = (categories[prefix] == column.removeprefix(prefix)).astype(float)
            columns[column] = is_it.where(known)
    return columns.to_numpy(np.float32)


def members(prefix: str) -> list[str]:
    """Columns of a one-hot group."""
    return [name for name in DEMOGRAPHICS if name.startswith(prefix)]


def race_group(race: object) -> str | None:
    """The group of a race string of MIMIC-IV; None if it has none."""
    text = str(race).upper()
    return next((group for start, group in RACE_GROUPS.items() if text.startswith(start)), None)


def _language(language: object) -> str | None:
    """English or '?', which stands for any other (releases before v3 name no other)."""
    if not isinstance(language, str):
        return None
    return "ENGLISH" if language.upper() == "ENGLISH" else "?"


def _first_measure(
    name: str, raw_events: pd.DataFrame, known_until: np.ndarray, rules: Rules
) -> np.ndarray:
    """The first valid value of height (cm) or weight (kg) that is known in time, NaN if none."""
    items, largest = MEASURES[name]
    charted = raw_events[raw_events["itemid"].isin(items)]
    value = charted["number"].to_numpy(float, copy=True)
    value[charted["itemid"] == WEIGHT_ADMISSION_POUNDS] *= KG_PER_POUND
    if not rules.height_inches_as_cm:
        inches = (charted["itemid"] == HEIGHT_INCHES).to_numpy()
        value[inches] = np.round(value[inches] * CM_PER_INCH)
    valid = (value > 0) & (value <= largest)
    if not rules.measures_look_ahead:
        valid &= (charted["seconds"] < known_until[charted["stay"]]).to_numpy()
    # Of values at the same minute the largest: centimetres if inches passed as such.
    first = (
        charted.assign(value=value)[valid]
        .sort_values(["seconds", "value"], ascending=[True, False])
        .drop_duplicates("stay")
        .set_index("stay")["value"]
    )
    return first.reindex(np.arange(len(known_until))).to_numpy()
