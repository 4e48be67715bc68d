"""Which stay and hour each EHR row of a written cohort is about."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.data.cohort import Cohort
from bench.preparing.events import HOUR, Events


def window_rows(cohort: Cohort) -> pd.DataFrame:
    """One line for each row of each window, those of the stays first.

    Columns: row (of ehr_values), window (number), stay, hour (since ICU admission), is_cut (the
    last row of a pair: it ends with the second film, not with the hour).
    """
    own = ["stay", "first_hour", "ehr_offset", "n_hours", "is_pair"]
    stays = cohort.stays.assign(stay=cohort.stays.index, first_hour=0, is_pair=False)[own]
    windows = pd.concat([stays, cohort.pairs.assign(is_pair=True)[own]], ignore_index=True)
    n_hours = windows["n_hours"].to_numpy()
    rows = windows.loc[windows.index.repeat(n_hours)].reset_index(names="window")
    step = np.arange(len(rows)) - np.repeat(np.cumsum(n_hours) - n_hours, n_hours)
    return pd.DataFrame(
        {
            "row": rows["ehr_offset"] + step,
            "window": rows["window"],
            "stay": rows["stay"],
            "hour": rows["first_hour"] + step,
            "is_cut": rows["is_pair"] & (step == rows["n_hours"] - 1),
        }
    )


def hours_once(cohort: Cohort) -> pd.DataFrame:
    """`window_rows` with every hour of a stay once, uncut where some window has it whole."""
    rows = window_rows(cohort).sort_values("is_cut", kind="stable")
    return rows.drop_duplicates(["stay", "hour"]).sort_values(["stay", "hour"], ignore_index=True)


def hourly_events(cohort: Cohort) -> Events:
    """Every observed hour of every stay as one event."""
    lines = hours_once(cohort)
    row = lines["row"].to_numpy()
    observed = cohort.arrays["ehr_observed"][row]
    line, variable = np.nonzero(observed)
    value = cohort.arrays["ehr_values"][row][observed].astype(np.float64)
    stay, hour = lines["stay"].to_numpy()[line], lines["hour"].to_numpy()[line]
    return Events(stay, variable, hour * HOUR, value)
