"""EHR windows and demographics as a directory of the official scripts holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.cohort import Normalisation
from bench.data.vocabulary import DEMOGRAPHICS, EHR_VARIABLES, ICU_HORIZON_HOURS
from bench.errors import UserError
from bench.preparing.ehr import Ehr
from bench.preparing.events import HOUR
from bench.preparing.official_tables import EHR_COLUMNS, STATIC, located, refuse, refuse_absent
from bench.preparing.selection import Selection
from bench.preparing.tables import INTEGER, Table, find_table, read_table
from bench.preparing.windows import Windows


@dataclass(frozen=True)
class Series:
    """EHR of a stay, a row an hour from hour 0: float32 and bool [hours, 38].

    path: its file
    never: variables that are NaN in every row; the scripts write that where no stay has a value
    """

    values: np.ndarray
    observed: np.ndarray
    path: Path
    never: frozenset[str]


def read_ehr(processed: Path, selection: Selection, oddities: Counter[str]) -> Ehr:
    """Rows of all windows as the files give them, stays first; nothing is left to normalise.

    Raises:
        UserError: a file or value is missing or wrong.
    """
    series = [_series(processed, stay_id) for stay_id in selection.stays["stay_id"]]
    oddities["EHR variables that no stay has: 0 instead of NaN"] += len(_never(series))
    n_stays, hours = len(series), selection.films["hours"].to_numpy()
    film_hours = hours[selection.pairs[["film_1", "film_2"]].to_numpy()]
    stay = np.concatenate([np.arange(n_stays), selection.pairs["stay"].to_numpy()])
    rows = [slice(0, int(ICU_HORIZON_HOURS) + 1)] * n_stays
    rows += [
        _rows_around(first, second, len(series[i].values))
        for i, (first, second) in zip(stay[n_stays:], film_hours, strict=True)
    ]
    values = [series[i].values[window] for i, window in zip(stay, rows, strict=True)]
    observed = [series[i].observed[window] for i, window in zip(stay, rows, strict=True)]
    # Numbered from the first film's hour, also where the row before it is in (ledger D10).
    first_hour = np.append(np.zeros(n_stays), film_hours[:, 0]).astype(np.int64)
    n_hours = np.array([len(window) for window in values])
    windows = Windows(stay, first_hour, n_hours, (first_hour + n_hours) * HOUR)
    return Ehr(
        values=np.concatenate(values),
        observed=np.concatenate(observed),
        demographics=_demographics(processed, selection.stays),
        of_stays=_part(windows, slice(None, n_stays)),
        of_pairs=_part(windows, slice(n_stays, None)),
        normalisation=_as_it_is(),
    )


def _never(series: Sequence[Series]) -> frozenset[str]:
    """Variables that no stay has; one that only some stays have as NaN is a fault."""
    long = [one for one in series if len(one.values)]
    never = long[0].never if long else frozenset()
    for one in long:
        for variable in sorted(one.never ^ never):
            path = one.path if variable in one.never else long[0].path
            raise UserError(
                f"{path}, column {variable}: empty, but other stays have values; make the "
                "directory again"
            )
    return never


def _rows_around(first: float, second: float, n_rows: int) -> slice:
    """Hours h with first - 1 <= h <= second + 1, of a series that may end before."""
    hour = np.arange(n_rows)
    inside = np.flatnonzero((hour >= first - 1) & (hour <= second + 1))
    return slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)


def _part(windows: Windows, which: slice) -> Windows:
    return Windows(*(values[which] for values in vars(windows).values()))


def _as_it_is() -> Normalisation:
    """Mean 0 and sd 1: the official scripts have normalised, with statistics of all stays."""
    n_ehr, n_static = len(EHR_VARIABLES), len(DEMOGRAPHICS)
    return Normalisation(
        ehr_mean=np.zeros(n_ehr),
        ehr_sd=np.ones(n_ehr),
        demographics_mean=np.zeros(n_static),
        demographics_sd=np.ones(n_static),
        demographics_fill=np.zeros(n_static),
    )


def _series(processed: Path, stay_id: int) -> Series:
    """Read the EHR of a stay: hours 0, 1, 2, ... without a gap, every value known."""
    table = Table(f"ehr_preprocessed/New_episode{stay_id}_timeseries", EHR_COLUMNS)
    path = find_table(processed, table)
    types = {name: np.int64 if kind == INTEGER else float for name, kind in EHR_COLUMNS.items()}
    try:
        rows = pd.read_csv(path, usecols=list(types), dtype=types)
    except ValueError:
        # Slower, but it says which row and column is wrong.
        rows = read_table(processed, table)
    rows = located(rows, path)
    never = frozenset(name for name in EHR_VARIABLES if len(rows) and rows[name].isna().all())
    _refuse_endless(rows, [name for name in EHR_VARIABLES if name not in never])
    masks = [f"{name}_mask" for name in EHR_VARIABLES]
    for mask in masks:
        refuse(rows, ~rows[mask].isin([0, 1]), mask, "0 or 1")
    in_order = rows["regular_interval"] == np.arange(len(rows))
    refuse(rows, ~in_order, "regular_interval", "the hour of its row (0, 1, 2, ...)")
    return Series(
        values=rows[list(EHR_VARIABLES)].fillna(0).to_numpy(np.float32),
        observed=rows[masks].to_numpy(bool),
        path=path,
        never=never,
    )


def _refuse_endless(rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse NaN and infinity."""
    for column in columns:
        refuse(rows, ~np.isfinite(rows[column]), column, "a finite number")


def _demographics(processed: Path, stays: pd.DataFrame) -> np.ndarray:
    """float32 [stays, 17], already scaled and complete."""
    table = read_table(processed, STATIC)
    path = find_table(processed, STATIC)
    _refuse_endless(located(table, path), DEMOGRAPHICS)
    refuse_absent(stays, "stay_id", table["stay_id"], path)
    of_stay = table.set_index("stay_id")[list(DEMOGRAPHICS)]
    return of_stay.loc[stays["stay_id"]].to_numpy(np.float32)
