"""Hourly EHR windows: one row an hour, last value carried forward, nothing later than known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bench.data.vocabulary import EHR_VARIABLES, ICU_HORIZON_HOURS
from bench.preparing.events import HOUR, Events
from bench.preparing.rules import Rules

HORIZON_SECONDS = int(ICU_HORIZON_HOURS) * HOUR


@dataclass(frozen=True)
class Windows:
    """Hourly windows of W samples; all int64 [W].

    stay: row of the stay
    first_hour: hour of the first row
    n_hours: number of rows
    end: seconds since ICU admission from which on events are not known
    """

    stay: np.ndarray
    first_hour: np.ndarray
    n_hours: np.ndarray
    end: np.ndarray

    @property
    def offset(self) -> np.ndarray:
        """Row of each window's first hour when all windows are stacked."""
        return np.cumsum(self.n_hours) - self.n_hours

    def followed_by(self, other: Windows) -> Windows:
        """Both, one after the other."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Windows(*(np.concatenate(pair) for pair in pairs))


def stay_windows(n_stays: int, rules: Rules) -> Windows:
    """The window of the ICU tasks: hours 0 to 47, the same length for everyone."""
    n_hours = HORIZON_SECONDS // HOUR + int(rules.hour_after_prediction)
    return Windows(
        stay=np.arange(n_stays),
        first_hour=np.zeros(n_stays, np.int64),
        n_hours=np.full(n_stays, n_hours),
        end=np.full(n_stays, n_hours * HOUR),
    )


def pair_windows(pairs: pd.DataFrame, rules: Rules) -> Windows:
    """Hours floor(t1) to floor(t2) of a pair; the last one ends with the second film (included)."""
    first, past_hour = np.divmod(pairs["seconds_1"].to_numpy(np.int64), HOUR)
    if rules.whole_hours_numbered_late:
        first -= (past_hour == 0) & (first > 0)
    last = pairs["seconds_2"].to_numpy(np.int64) // HOUR + int(rules.hour_after_prediction)
    film = pairs["seconds_2"].to_numpy(np.int64) + 1
    end = (last + 1) * HOUR if rules.hour_after_prediction else film
    return Windows(pairs["stay"].to_numpy(np.int64), first, last - first + 1, end)


def numbered_from_film(windows: Windows, pairs: pd.DataFrame) -> Windows:
    """Windows of pairs whose first row has the number of the first film's hour (ledger D10)."""
    return replace(windows, first_hour=pairs["seconds_1"].to_numpy(np.int64) // HOUR)


def ended_with_charting(windows: Windows, events: Events, n_stays: int) -> Windows:
    """Windows without the hours after that of the stay's last event; none may be left."""
    last = np.full(n_stays, -1)
    np.maximum.at(last, events.stay, events.seconds)
    n_charted = last[windows.stay] // HOUR + 1 - windows.first_hour
    return replace(windows, n_hours=np.clip(n_charted, 0, windows.n_hours))


def last_needed(n_stays: int, *windows: Windows) -> np.ndarray:
    """The last second of each stay that any of the windows shows, int64 [stays]."""
    until = np.zeros(n_stays, np.int64)
    for group in windows:
        np.maximum.at(until, group.stay, group.end - 1)
    return until


def hourly(events: Events, windows: Windows, impute: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill the rows of all windows.

    A row holds each variable's last value before the row's end (and before the window's), or
    `impute` (float [38]) if there is none yet; it is observed if that value lies in the row's hour.

    Returns:
        float32 [rows, 38] values and bool [rows, 38] observed flags.
    """
    window = np.repeat(np.arange(len(windows.stay)), windows.n_hours)
    step = np.arange(len(window)) - windows.offset[window]
    start = (windows.first_hour[window] + step) * HOUR
    end = np.minimum(start + HOUR, windows.end[window])
    stay = windows.stay[window]
    event_key, row_key = _on_one_axis((events.stay, events.seconds), (stay, end))

    values = np.empty((len(window), len(EHR_VARIABLES)), np.float32)
    observed = np.empty(values.shape, bool)
    bounds = np.searchsorted(events.variable, np.arange(len(EHR_VARIABLES) + 1))
    for variable in range(len(EHR_VARIABLES)):
        mine = slice(bounds[variable], bounds[variable + 1])
        # Events before the row's end; with something put before the first, the last one's index.
        last = np.searchsorted(event_key[mine], row_key)
        known = np.append(-1, events.stay[mine])[last] == stay
        value = np.append(impute[variable], events.value[mine])[last]
        values[:, variable] = np.where(known, value, impute[variable])
        observed[:, variable] = known & (np.append(-1, events.seconds[mine])[last] >= start)
    return values, observed


def _on_one_axis(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of (stay, seconds) as single numbers in the same order."""
    seconds = np.concatenate([first[1], second[1]])
    low, high = (seconds.min(), seconds.max()) if len(seconds) else (0, 0)
    span = high - low + 1
    return first[0] * span + first[1] - low, second[0] * span + second[1] - low
