"""Identifiers and calendar of a simulated cohort, in MIMIC's number ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from bench.simulating.population import Population
from bench.simulating.streams import Tag, stream

SECOND: Final = np.timedelta64(1, "s")


@dataclass(frozen=True)
class Identifiers:
    """Who is who in the raw files.

    subject_id: int64 [subjects]; hadm_id, stay_id: int64 [stays]; study_id: int64 [films]
    dicom_id: str [films]; intime: datetime64[s] [stays], shifted per subject into 2110-2200
    """

    subject_id: np.ndarray
    hadm_id: np.ndarray
    stay_id: np.ndarray
    study_id: np.ndarray
    dicom_id: list[str]
    intime: np.ndarray

    def film_times(self, films: pd.DataFrame) -> np.ndarray:
        """Time of every film, datetime64[s]."""
        return self.intime[films["stay"]] + seconds(films["hours"])


def seconds(hours: np.ndarray | pd.Series) -> np.ndarray:
    """Hours as timedelta64[s]."""
    return np.round(np.asarray(hours, dtype=np.float64) * 3600).astype(np.int64) * SECOND


def draw_identifiers(population: Population) -> Identifiers:
    """Draw every identifier; none tells anything about order or time."""
    rng = stream(population.seed, Tag.WRITING, 0)
    subject = population.stays["subject"].to_numpy()
    start = np.datetime64("2110-01-01T00:00:00", "s")
    shift = rng.integers(0, 90 * 365 * 86400, len(population.subjects))
    later = np.where(population.stays.groupby("subject").cumcount() > 0, 400 * 86400, 0)
    return Identifiers(
        subject_id=_draw(rng, 10_000_000, len(population.subjects)),
        hadm_id=_draw(rng, 20_000_000, len(subject)),
        stay_id=_draw(rng, 30_000_000, len(subject)),
        study_id=_draw(rng, 50_000_000, len(population.films)),
        dicom_id=[draw_dicom_id(rng) for _ in range(len(population.films))],
        intime=start + (shift[subject] + later) * SECOND,
    )


def draw_dicom_id(rng: np.random.Generator) -> str:
    """Five groups of eight hex digits."""
    return "-".join(f"{number:08x}" for number in rng.integers(0, 2**32, 5))


def draw_unused(rng: np.random.Generator, base: int, taken: np.ndarray, n: int) -> np.ndarray:
    """Draw n more ids of the range from `base` that are not among those taken, int64 [n]."""
    drawn = _draw(rng, base, n + len(taken))
    return drawn[~np.isin(drawn, taken)][:n]


def _draw(rng: np.random.Generator, base: int, n: int) -> np.ndarray:
    return base + rng.choice(9_999_999, n, replace=False)
