"""Films: when they were taken, which stay they belong to, and which of them are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import UserError
from bench.preparing.attrition import Attrition
from bench.preparing.rules import MAX_FILMS, MAX_GAP_HOURS, MIN_FILMS, MIN_GAP_HOURS, Rules
from bench.preparing.scene_graphs import MAX_PIXEL, SceneGraphs
from bench.preparing.tables import FILM_METADATA, find_table, read_table, refuse_first, row_of


def read_films(mimic_cxr: Path, oddities: Counter[str] | None = None) -> pd.DataFrame:
    """Read the metadata of all films; `row` is the row in the file.

    Raises:
        UserError: the table is missing or wrong, or a film has a size that no image has.
    """
    films = read_table(mimic_cxr, FILM_METADATA, oddities)
    for side in ("Rows", "Columns"):
        possible = films[side].between(1, MAX_PIXEL) & (films[side] % 1 == 0)
        wrong = films[side].notna() & ~possible
        expected = f"a whole number from 1 to {MAX_PIXEL}"
        refuse_first(find_table(mimic_cxr, FILM_METADATA), films, side, wrong, expected)
    return films.assign(row=row_of(0) + films.index)


def subject_of_films(mimic_cxr: Path) -> dict[str, int]:
    """Subject of every film by its dicom_id."""
    films = read_films(mimic_cxr)
    return dict(zip(films["dicom_id"], films["subject_id"], strict=True))


def film_path(mimic_cxr: Path, film: Any) -> Path:
    """Where the JPEG of a film (a row with subject_id, study_id and dicom_id) lies."""
    subject = f"p{film.subject_id}"
    folder = mimic_cxr / "files" / subject[:3] / subject / f"s{film.study_id}"
    return folder / f"{film.dicom_id}.jpg"


def select_films(
    films: pd.DataFrame,
    stays: pd.DataFrame,
    graphs: SceneGraphs,
    mimic_cxr: Path,
    rules: Rules,
    attrition: Attrition,
) -> pd.DataFrame:
    """Apply the film rules in the official order.

    Returns columns dicom_id, subject_id, study_id, Rows, Columns, stay (row in `stays`) and
    seconds since ICU admission, sorted by stay and time.
    """
    attrition.all_films("films", films)
    films = films[films["ViewPosition"] == "AP"]
    attrition.all_films("AP view", films)
    films = films.assign(taken=taken(films, find_table(mimic_cxr, FILM_METADATA)))
    films = _one_per_study(films, rules)
    attrition.all_films("one of each study", films)
    films = _inside_stays(films, stays)
    attrition.films("taken during a kept stay", films)
    films = films[[dicom in graphs for dicom in films["dicom_id"]]]
    attrition.films("has a scene graph", films)
    films = films.sort_values(["stay", "seconds", "dicom_id"], ignore_index=True)
    films["gap_hours"] = _gap_hours(films)
    for rule, keep in LOOKING_AHEAD if rules.film_filters_look_ahead else LOOKING_BACK:
        films = films[keep(films)].reset_index(drop=True)
        attrition.films(rule, films)
    return films[["dicom_id", "subject_id", "study_id", "Rows", "Columns", "stay", "seconds"]]


def taken(films: pd.DataFrame, path: Path) -> pd.Series:
    """Date and time of films; StudyTime is a float HHMMSS.fff without leading zeros.

    Raises:
        UserError: a film has no such date or time; `path` and its `row` are named.
    """
    in_day = films["StudyTime"].between(0, 240_000, inclusive="left")
    clock = films["StudyTime"].where(in_day, 0).astype(np.int64)
    hours, minutes, seconds = clock // 10_000, clock // 100 % 100, clock % 100
    wrong_time = ~in_day | (minutes > 59) | (seconds > 59)
    eight_digits = films["StudyDate"].between(1000_01_01, 9999_12_31)
    written = films["StudyDate"].astype(str).where(eight_digits)
    date = pd.to_datetime(written, format="%Y%m%d", errors="coerce")
    for column, wrong in (("StudyTime", wrong_time), ("StudyDate", date.isna())):
        if wrong.any():
            first = films[wrong].iloc[0]
            expected = "a date YYYYMMDD" if column == "StudyDate" else "a time HHMMSS"
            raise UserError(
                f"{path}, row {first['row']}, column {column}: {first[column]} is not {expected}"
            )
    return date + pd.to_timedelta(hours * 3600 + minutes * 60 + seconds, unit="s")


def _one_per_study(films: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    study = ["subject_id", "study_id"]
    if rules.last_film_of_study:
        return films.sort_values(["taken", "row"]).drop_duplicates(study, keep="last")
    return films.sort_values("dicom_id").drop_duplicates(study)


def _inside_stays(films: pd.DataFrame, stays: pd.DataFrame) -> pd.DataFrame:
    """Films with the row of the stay during which they were taken."""
    spans = stays[["subject_id", "intime", "outtime"]].assign(stay=np.arange(len(stays)))
    films = films.merge(spans, on="subject_id")
    films = films[films["taken"].between(films["intime"], films["outtime"])]
    seconds = (films["taken"] - films["intime"]).dt.total_seconds().astype(np.int64)
    # A film at the very second between two stays belongs to the first.
    return films.assign(seconds=seconds).sort_values("stay").drop_duplicates("dicom_id")


Keep = Callable[[pd.DataFrame], np.ndarray]
"""Films sorted by stay and time -> bool [films], those that a rule keeps."""


def _gap_hours(films: pd.DataFrame) -> pd.Series:
    """Hours since the stay's previous film of this list; NaN for its first."""
    return films.groupby("stay")["seconds"].diff() / 3600


def _first_films(films: pd.DataFrame) -> np.ndarray:
    return (films.groupby("stay").cumcount() < MAX_FILMS).to_numpy()


def _few_films(films: pd.DataFrame) -> np.ndarray:
    return (films.groupby("stay")["stay"].transform("size") <= MAX_FILMS).to_numpy()


def _spaced_from_kept(films: pd.DataFrame) -> np.ndarray:
    keep = np.zeros(len(films), dtype=bool)
    stay, kept_at = -1, 0
    for i, (own, seconds) in enumerate(zip(films["stay"], films["seconds"], strict=True)):
        keep[i] = own != stay or seconds - kept_at >= MIN_GAP_HOURS * 3600
        if keep[i]:
            stay, kept_at = own, seconds
    return keep


def _spaced_from_previous(films: pd.DataFrame) -> np.ndarray:
    return ~(films["gap_hours"] < MIN_GAP_HOURS).to_numpy()


def _before_long_gap(films: pd.DataFrame) -> np.ndarray:
    long = _gap_hours(films) >= MAX_GAP_HOURS
    return (long.groupby(films["stay"]).cumsum() == 0).to_numpy()


def _without_long_gap(films: pd.DataFrame) -> np.ndarray:
    long = films["gap_hours"] >= MAX_GAP_HOURS
    return ~long.groupby(films["stay"]).transform("any").to_numpy()


def _several_films(films: pd.DataFrame) -> np.ndarray:
    return (films.groupby("stay")["stay"].transform("size") >= MIN_FILMS).to_numpy()


SEVERAL = f"{MIN_FILMS} films or more in the stay"

LOOKING_BACK: tuple[tuple[str, Keep], ...] = (
    (f"among the stay's first {MAX_FILMS}", _first_films),
    (f"{MIN_GAP_HOURS} h or more after the film kept before", _spaced_from_kept),
    (f"before the stay's first gap of {MAX_GAP_HOURS} h", _before_long_gap),
    (SEVERAL, _several_films),
)
"""Whether a film is kept depends on it and earlier films only: the list up to any prediction time
is what it would be had the stay ended there."""

LOOKING_AHEAD: tuple[tuple[str, Keep], ...] = (
    (SEVERAL, _several_films),
    (f"{MAX_FILMS} films or fewer in the stay", _few_films),
    (f"{MIN_GAP_HOURS} h or more after the film before", _spaced_from_previous),
    (f"no gap of {MAX_GAP_HOURS} h in the stay", _without_long_gap),
)
"""As published; `gap_hours` is the gap in the list before any of these rules."""
