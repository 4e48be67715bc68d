"""Location and scale of every input, from training subjects only."""

from __future__ import annotations

import numpy as np

from bench.data.cohort import Normalisation
from bench.data.vocabulary import DEMOGRAPHIC_GROUPS, DEMOGRAPHICS, EHR_VARIABLES
from bench.preparing.demographics import members
from bench.preparing.events import Events
from bench.preparing.rules import FENCE_IQR

N_CONTINUOUS = len(DEMOGRAPHICS) - sum(len(members(prefix)) for prefix in DEMOGRAPHIC_GROUPS)


def fit_normalisation(
    events: Events, training: np.ndarray, impute: np.ndarray, demographics: np.ndarray
) -> Normalisation:
    """Fit on the training stays.

    Args:
        events: what the windows of all stays can show, values before the window's start included
        training: bool [stays]; stays to fit on
        impute: float [38]; mean of a variable that is never charted
        demographics: float [stays, 17]
    """
    used = training[events.stay]
    variable, value = events.variable[used], events.value[used]
    return normalisation_of(variable, value, np.ones(len(value)), impute, demographics[training])


def normalisation_of(
    variable: np.ndarray,
    value: np.ndarray,
    times: np.ndarray,
    impute: np.ndarray,
    demographics: np.ndarray,
) -> Normalisation:
    """Fit on values that occur a number of times, each [values], and demographics [stays, 17]."""
    ehr_mean, ehr_sd = _event_moments(variable, value, times, impute)
    mean, sd = np.zeros(len(DEMOGRAPHICS)), np.ones(len(DEMOGRAPHICS))
    for column in range(N_CONTINUOUS):
        mean[column], sd[column] = _fenced_moments(demographics[:, column])
    return Normalisation(ehr_mean, ehr_sd, mean, sd, _fill(demographics))


def _event_moments(
    variable: np.ndarray, value: np.ndarray, times: np.ndarray, impute: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population sd per variable over single events, before hourly binning."""
    n_variables = len(EHR_VARIABLES)
    count = np.bincount(variable, weights=times, minlength=n_variables)
    total = np.bincount(variable, weights=times * value, minlength=n_variables)
    mean = np.where(count > 0, total / np.maximum(count, 1), impute)
    square = times * (value - mean[variable]) ** 2
    squares = np.bincount(variable, weights=square, minlength=n_variables)
    sd = np.sqrt(squares / np.maximum(count, 1))
    return mean, np.where(sd > 0, sd, 1.0)


def _fenced_moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and sd (ddof 1) of the known values within 1.5 IQR of the quartiles."""
    values = values[~np.isnan(values)].astype(float)
    if len(values) == 0:
        return 0.0, 1.0
    first, third = np.quantile(values, [0.25, 0.75])
    reach = FENCE_IQR * (third - first)
    values = values[(values >= first - reach) & (values <= third + reach)]
    sd = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean()), float(sd) if sd > 0 else 1.0


def _fill(demographics: np.ndarray) -> np.ndarray:
    """What an unknown demographic becomes: 0 after scaling, or the most frequent category."""
    fill = np.zeros(len(DEMOGRAPHICS))
    for prefix in DEMOGRAPHIC_GROUPS:
        columns = [DEMOGRAPHICS.index(name) for name in members(prefix)]
        counts = np.nansum(demographics[:, columns], axis=0)
        if counts.any():
            fill[columns[int(counts.argmax())]] = 1.0
    return fill
