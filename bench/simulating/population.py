"""A simulated population in memory: what the latent course hands to the writer of raw files.

Everything here is truth. `writing.py` turns it into raw MIMIC-like files; only the folder `truth/`
keeps it in clear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

ACUTE_PROCESSES: Final = (
    "edema",
    "effusion_right",
    "effusion_left",
    "atelectasis_right",
    "atelectasis_left",
    "consolidation_right",
    "consolidation_left",
    "pneumonia_right",
    "pneumonia_left",
    "opacity_right",
    "opacity_left",
)
"""The eleven acute processes of the latent course; right and left are the patient's."""

FILM_SEVERITIES: Final = (*ACUTE_PROCESSES, "heart")
"""What a film shows, in the order of `Population.film_severity`."""

ORGANS: Final = ("shock", "renal", "neuro", "liver")
"""Organ latents: invisible on films, they drive the EHR and the outcomes."""

CLEAN: Final = "clean"
"""`kind` of a stay that the pipeline must keep; other kinds name why it must be dropped."""


@dataclass(frozen=True)
class Course:
    """Hourly latents of S stays over H hours since ICU admission.

    acute: float32 [S, 11, H]; severity of each acute process, >= 0
    chronic: float32 [S, 11]; constant offset that films show and labels ignore
    heart: float32 [S, H]; heart size latent
    organs: float32 [S, 4, H]
    dose_pulses: float32 [S, 11, H]; insult doses by the hour they arrive in
    """

    acute: np.ndarray
    chronic: np.ndarray
    heart: np.ndarray
    organs: np.ndarray
    dose_pulses: np.ndarray


@dataclass(frozen=True)
class Courses:
    """The courses of S stays that the films show and that everything else follows.

    told: what EHR, reports and outcomes follow
    shown: what films show; the same object, unless an engine parts the two
    frailty: float64 [S]; of `told`
    early: bool [S]; the film shows a tube already at the lower respiratory load
    truth: arrays that `truth/` should keep besides
    parameters: JSON-able, for `truth/params.json`
    """

    told: Course
    shown: Course
    frailty: np.ndarray
    early: np.ndarray
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Population:
    """Subjects, stays, films, pairs and EHR events of one simulated cohort.

    subjects: row = subject; sex 'F'/'M', age (years at first admission), race, language,
        marital_status (None = missing), bmi, height_cm
    stays: row = stay; subject, kind, los_days, age, died (bool), death_hours (NaN if alive),
        icu_sample (two or more films before 48 h), p_death, p_los_0..p_los_3
    films: row = film; stay, hours; sorted by stay and hours
    film_severity: float32 [films, 12]; what the film shows, chronic part included
    film_ventilated: bool [films]; an endotracheal tube is visible
    pairs: row = pair of consecutive films; stay, film_1, film_2, compared (the report compares),
        the seven diseases (Progression or NOT_MENTIONED), plus what `truth/` keeps (u_*, ...)
    region_words: list per pair of (region, disease, Progression) that the report says
    contradictions: list per pair of (region, disease, Progression) said besides, to be dropped
    gold_subjects: rows of subjects whose pairs the gold file holds
    gold_labels: int8 [pairs, 7]; consensus labels of gold subjects' pairs, else NOT_MENTIONED
    events: EHR rows; stay, hours, itemid, table ('chartevents', 'labevents' or 'outputevents'),
        value (text as charted), valuenum (NaN if text), valueuom
    parameters: JSON-able constants that rank calibration fixed (thresholds, intercepts)
    engine_truth: arrays that the engine wants kept in `truth/engine.npz`
    """

    seed: int
    subjects: pd.DataFrame
    stays: pd.DataFrame
    films: pd.DataFrame
    film_severity: np.ndarray
    film_ventilated: np.ndarray
    pairs: pd.DataFrame
    region_words: list[list[tuple[str, str, int]]]
    contradictions: list[list[tuple[str, str, int]]]
    gold_subjects: np.ndarray
    gold_labels: np.ndarray
    events: pd.DataFrame
    course: Course
    parameters: dict[str, Any] = field(default_factory=dict)
    engine_truth: dict[str, np.ndarray] = field(default_factory=dict)
