"""A tiny random cohort for checks and tests: valid, ragged, with signal planted in every input.

Mortality shows in a rising heart rate and a bright heart, length of stay in creatinine, and a
disease that worsens brightens its region in the second film of the pair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.cohort import Cohort, Normalisation, key_of, write_cohort
from bench.data.vocabulary import (
    BOX_REGIONS,
    DEMOGRAPHIC_GROUPS,
    DEMOGRAPHICS,
    DISEASES,
    EHR_VARIABLES,
    FINDING_UNKNOWN,
    ICU_HORIZON_HOURS,
    LENGTH_OF_STAY_EDGES_DAYS,
    NOT_MENTIONED,
    REGIONS,
    Progression,
    Split,
)

N_CELLS = 4
"""Cells along each side of a film; each of the first ten shows a region."""

SPLITS = (Split.TRAIN, Split.TRAIN, Split.VALIDATION, Split.TEST)
"""Split of subject 0, 1, 2, 3, and so on in turn."""

N_ICU_HOURS = int(ICU_HORIZON_HOURS)
CONTINUOUS = 3
"""Leading columns of `DEMOGRAPHICS` that are not one-hot."""


def miniature_cohort(
    path: Path, n_stays: int = 24, seed: int = 0, film_size: int = 32, region_size: int = 16
) -> Cohort:
    """Write the cohort of `miniature_parts` to `path` and open it."""
    return write_cohort(path, **miniature_parts(n_stays, seed, film_size, region_size))


def miniature_parts(
    n_stays: int = 24, seed: int = 0, film_size: int = 32, region_size: int = 16
) -> dict[str, Any]:
    """Arguments of `write_cohort`: stays of 2 to 4 films, a sixth of them second stays.

    Sizes are in pixels; `film_size` is a multiple of 4.
    """
    rng = np.random.default_rng(seed)
    stays = _stays(n_stays, rng)
    films = _films(stays, rng)
    pairs = _pairs(films, rng)
    subjects = _subjects(stays)
    windows = _windows(stays, pairs)
    arrays = {
        **_ehr(windows, stays, rng),
        "demographics": _demographics(n_stays, rng),
        **_images(_brightness(films, pairs, stays), film_size, region_size, rng),
        "region_progression": _region_labels(pairs),
        "findings": _findings(films, pairs, rng),
    }
    training = subjects["split"].eq(Split.TRAIN).to_numpy()[stays["subject"]]
    return {
        "tables": {"subjects": subjects, "stays": stays, "films": films, "pairs": pairs},
        "arrays": arrays,
        "normalisation": _normalisation(arrays, windows, training),
        "identifiers": {"stay_id": [30_000_000 + i for i in range(n_stays)]},
        "manifest": {
            "title": f"miniature cohort, seed {seed}",
            "simulated": True,
            "credentialed": False,
        },
    }


def _stays(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Labels in turn, so that every split has every class; every seventh stay is no ICU sample."""
    row = np.arange(n)
    length_of_stay = row // len(SPLITS) % len(LENGTH_OF_STAY_EDGES_DAYS)
    shortest_days = np.array(LENGTH_OF_STAY_EDGES_DAYS)[length_of_stay]
    return pd.DataFrame(
        {
            "subject": row % (n - n // 6),
            "stay_key": [key_of(b"miniature", "stay", i) for i in row],
            "los_days": shortest_days + rng.random(n),
            "mortality": (row % 3 == 0).astype(int),
            "length_of_stay": length_of_stay,
            "icu_sample": row % 7 != 5,
        }
    )


def _subjects(stays: pd.DataFrame) -> pd.DataFrame:
    subjects = range(stays["subject"].max() + 1)
    return pd.DataFrame(
        {
            "split": [str(SPLITS[i % len(SPLITS)]) for i in subjects],
            "subject_key": [key_of(b"miniature", "subject", i) for i in subjects],
        }
    )


def _films(stays: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """2 to 4 early films of an ICU sample, every fifth with one after 48 h; 1 + 1 of the others."""
    rows = []
    for stay, icu_sample in enumerate(stays["icu_sample"]):
        n_early = int(rng.integers(2, 5)) if icu_sample else 1
        hours = list(np.sort(rng.uniform(1, N_ICU_HOURS - 1, n_early)))
        if stay % 5 == 4 or not icu_sample:
            hours.append(rng.uniform(N_ICU_HOURS + 1, N_ICU_HOURS + 24))
        rows += [{"stay": stay, "hours": hour} for hour in hours]
    return pd.DataFrame(rows)


def _pairs(films: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Every two neighbours; a fifth of the labels are not mentioned, but never all of a pair's."""
    first = np.flatnonzero(films["stay"].diff(-1).eq(0))
    labels = rng.integers(0, len(Progression), (len(first), len(DISEASES)))
    silent = rng.random(labels.shape) < 0.2
    silent[np.arange(len(first)), rng.integers(0, len(DISEASES), len(first))] = False
    labels[silent] = NOT_MENTIONED
    first_hour = np.floor(films["hours"].to_numpy()[first]).astype(int)
    last_hour = np.floor(films["hours"].to_numpy()[first + 1]).astype(int)
    return pd.DataFrame(
        {
            "stay": films["stay"].to_numpy()[first],
            "pair_key": [key_of(b"miniature", "pair", i) for i in range(len(first))],
            "film_1": first,
            "film_2": first + 1,
            **dict(zip(DISEASES, labels.T, strict=True)),
            "from_gold": np.arange(len(first)) % 9 == 0,
            "first_hour": first_hour,
            "n_hours": last_hour - first_hour + 1,
        }
    )


def _windows(stays: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Number the EHR rows of every stay's and pair's window; one line per row is returned."""
    stays["n_hours"] = np.where(stays["icu_sample"], N_ICU_HOURS, 0)
    ends = np.cumsum([*stays["n_hours"], *pairs["n_hours"]])
    stays["ehr_offset"] = ends[: len(stays)] - stays["n_hours"]
    pairs["ehr_offset"] = ends[len(stays) :] - pairs["n_hours"]
    owners = [(stay, 0, n) for stay, n in enumerate(stays["n_hours"])]
    owners += list(zip(pairs["stay"], pairs["first_hour"], pairs["n_hours"], strict=True))
    return pd.DataFrame(
        [(stay, first + step) for stay, first, n in owners for step in range(n)],
        columns=["stay", "hour"],
    )


def _ehr(
    windows: pd.DataFrame, stays: pd.DataFrame, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Hourly series of every stay, carried forward, cut into windows."""
    n_hours = windows["hour"].max() + 1
    shape = (len(stays), n_hours, len(EHR_VARIABLES))
    hour = np.arange(n_hours)
    series = rng.normal(50 + 2 * np.arange(shape[-1]), 5, shape)
    slope = stays["mortality"].to_numpy()[:, None]
    series[..., EHR_VARIABLES.index("Heart Rate")] += slope * hour
    series[..., EHR_VARIABLES.index("Creatinine")] += (
        10 * stays["length_of_stay"].to_numpy()[:, None]
    )
    observed = rng.random(shape) < 0.4
    last = np.maximum.accumulate(np.where(observed, hour[:, None], 0), axis=1)
    series = np.take_along_axis(series, last, axis=1)
    where = windows["stay"].to_numpy(), windows["hour"].to_numpy()
    return {"ehr_values": series[where].astype(np.float32), "ehr_observed": observed[where]}


def _demographics(n: int, rng: np.random.Generator) -> np.ndarray:
    """Physical units and one-hot groups; every sixth height and one marital status are unknown."""
    values = np.zeros((n, len(DEMOGRAPHICS)), dtype=np.float32)
    values[:, :CONTINUOUS] = rng.normal([65, 170, 80], [12, 10, 15], (n, CONTINUOUS))
    values[::6, DEMOGRAPHICS.index("height")] = np.nan
    for columns in _groups():
        values[np.arange(n), rng.choice(columns, n)] = 1
    values[1, columns] = np.nan
    return values


def _groups() -> list[list[int]]:
    return [
        [i for i, name in enumerate(DEMOGRAPHICS) if name.startswith(prefix)]
        for prefix in DEMOGRAPHIC_GROUPS
    ]


def _brightness(films: pd.DataFrame, pairs: pd.DataFrame, stays: pd.DataFrame) -> np.ndarray:
    """Grey level of each cell of each film, int [films, 16].

    Region i is as bright as disease i is severe, which is the sum of the changes before the film.
    """
    brightness = np.full((len(films), N_CELLS**2), 110)
    brightness[:, : len(DISEASES)] += 30 * _severity(films, pairs)
    died = stays["mortality"].to_numpy()[films["stay"]]
    brightness[:, REGIONS.index("cardiac silhouette")] += 60 * died
    return brightness


def _severity(films: pd.DataFrame, pairs: pd.DataFrame) -> np.ndarray:
    """How severe each disease is in each film: the sum of the changes before it, int [films, 7]."""
    severity = np.zeros((len(films), len(DISEASES)), dtype=int)
    change = np.zeros(NOT_MENTIONED + 1, dtype=int)
    change[[Progression.WORSENED, Progression.IMPROVED]] = 1, -1
    changes = change[pairs[list(DISEASES)].to_numpy()]
    for first, second, step in zip(pairs["film_1"], pairs["film_2"], changes, strict=True):
        severity[second] = severity[first] + step
    return severity


def _findings(films: pd.DataFrame, pairs: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """A disease is shown when it is more severe than in the stay's first film; a fifth unknown."""
    shown = (_severity(films, pairs) > 0).astype(np.int8)
    return np.where(rng.random(shown.shape) < 0.2, FINDING_UNKNOWN, shown)


def _images(
    brightness: np.ndarray, film_size: int, region_size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Films of 4 x 4 cells and crops of their first ten; brightness is int [films, 16]."""
    present = rng.random((len(brightness), len(REGIONS))) > 0.05
    cells = brightness.reshape(-1, N_CELLS, N_CELLS)
    crops = brightness[:, : len(REGIONS), None, None]
    boxes = np.full((len(brightness), len(BOX_REGIONS), 4), np.nan, dtype=np.float32)
    for i in range(len(REGIONS)):
        y, x = divmod(i, N_CELLS)
        boxes[present[:, i], i] = np.array([x, y, x + 1, y + 1]) / N_CELLS
    return {
        "films": _noisy(cells, film_size // N_CELLS, rng),
        "regions": _noisy(crops, region_size, rng) * present[..., None, None],
        "region_present": present,
        "boxes": boxes,
    }


def _noisy(brightness: np.ndarray, n_pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Each value of the last two axes as a noisy square of n_pixels a side, uint8."""
    squares = brightness.repeat(n_pixels, axis=-1).repeat(n_pixels, axis=-2)
    noise = rng.integers(-8, 9, squares.shape)
    return np.clip(squares + noise, 0, 255).astype(np.uint8)


def _region_labels(pairs: pd.DataFrame) -> np.ndarray:
    """Disease i is mentioned in region i only, [pairs, 10, 7]."""
    labels = np.full((len(pairs), len(REGIONS), len(DISEASES)), NOT_MENTIONED, dtype=np.int8)
    for i, disease in enumerate(DISEASES):
        labels[:, i, i] = pairs[disease]
    return labels


def _normalisation(
    arrays: dict[str, np.ndarray], windows: pd.DataFrame, training: np.ndarray
) -> Normalisation:
    ehr = arrays["ehr_values"][training[windows["stay"]]].astype(np.float64)
    demographics = arrays["demographics"][training].astype(np.float64)
    mean, sd = np.zeros(len(DEMOGRAPHICS)), np.ones(len(DEMOGRAPHICS))
    mean[:CONTINUOUS] = np.nanmean(demographics[:, :CONTINUOUS], axis=0)
    sd[:CONTINUOUS] = np.nanstd(demographics[:, :CONTINUOUS], axis=0)
    fill = np.zeros(len(DEMOGRAPHICS))
    for columns in _groups():
        fill[columns[int(np.nansum(demographics[:, columns], axis=0).argmax())]] = 1
    return Normalisation(ehr.mean(axis=0), ehr.std(axis=0), mean, sd, fill)
