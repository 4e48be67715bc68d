"""Rows of the official scripts' split files as film pairs with times and labels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bench.data.vocabulary import DISEASES, ICU_HORIZON_HOURS, NOT_MENTIONED, REGIONS
from bench.errors import UserError, nearest
from bench.preparing.official_tables import GOLD, REGION_COLUMNS, parsed, place
from bench.preparing.progression import FilmPair
from bench.preparing.rules import MIN_FILMS
from bench.preparing.scene_graphs import VERDICTS
from bench.preparing.tables import read_table

WORDS: Final = {word: int(verdict) for word, verdict in VERDICTS.items()} | {
    "not mentioned": NOT_MENTIONED
}
"""What the files call a label -> class index."""


@dataclass(frozen=True)
class Pair:
    """Two films that follow each other, as a row of a split's file tells of them.

    hours: since ICU admission, of each film
    diseases: int8 [7]
    regions: int8 [10, 7]
    where: file and row
    """

    stay_id: int
    films: FilmPair
    hours: tuple[float, float]
    diseases: np.ndarray
    regions: np.ndarray
    where: str

    @property
    def timed_films(self) -> tuple[tuple[str, float], ...]:
        """Both films with their hours."""
        return tuple(zip(self.films, self.hours, strict=True))


def read_pair(row: Mapping[Hashable, Any]) -> Pair:
    """The pair of a row of split/disease_progression."""
    where = place(row)
    hours = (row["cxr1_time"], row["cxr2_time"])
    if not (np.isfinite(hours).all() and 0 <= hours[0] < hours[1]):
        raise UserError(
            f"{where}, column cxr2_time: films at {hours[0]} and {hours[1]} hours, expected an "
            "earlier and a later one, from 0 on"
        )
    diseases = [
        NOT_MENTIONED if pd.isna(row[name]) else _class(f"{where}, column {name}", row[name])
        for name in DISEASES
    ]
    regions = [
        _verdicts(f"{where}, column {column}", parsed(where, column, row[column]))
        for column in REGION_COLUMNS
    ]
    return Pair(
        stay_id=row["stay_id"],
        films=(row["cxr1_dicom_id"], row["cxr2_dicom_id"]),
        hours=hours,
        diseases=np.array(diseases, np.int8),
        regions=np.array(regions, np.int8),
        where=where,
    )


def read_pairs_of_stay(row: Mapping[Hashable, Any]) -> list[Pair]:
    """The pairs of a row of split/mortality_los, which has a list of films."""
    where = place(row)
    films = _film_list(f"{where}, column cxr_list", parsed(where, "cxr_list", row["cxr_list"]))
    n_pairs = len(films) - 1
    regions = np.empty((n_pairs, len(REGIONS), len(DISEASES)), np.int8)
    for region, column in enumerate(REGION_COLUMNS):
        entries = parsed(where, column, row[column])
        if not isinstance(entries, list) or len(entries) != n_pairs:
            raise UserError(
                f"{where}, column {column}: expected a list of {n_pairs} dicts, one for each two "
                "films that follow each other in cxr_list"
            )
        for pair, entry in enumerate(entries):
            regions[pair, region] = _verdicts(f"{where}, column {column}", entry)
    return [
        Pair(
            stay_id=row["stay_id"],
            films=(first[0], second[0]),
            hours=(first[1], second[1]),
            diseases=np.full(len(DISEASES), NOT_MENTIONED, np.int8),
            regions=regions[pair],
            where=where,
        )
        for pair, (first, second) in enumerate(pairwise(films))
    ]


def _class(where: str, word: Any) -> int:
    if not isinstance(word, str) or word not in WORDS:
        raise UserError(f"{where}: unknown progression {word!r}, {nearest(str(word), WORDS)}")
    return WORDS[word]


def _verdicts(where: str, entry: Any) -> list[int]:
    """Class of every disease in a dict of disease -> word."""
    if not isinstance(entry, dict):
        raise UserError(f"{where}: {str(entry)[:60]!r} is not a dict of disease to progression")
    for disease in DISEASES:
        if disease not in entry:
            raise UserError(f"{where}: no entry of {disease!r}; make the directory again")
    return [_class(where, entry[disease]) for disease in DISEASES]


def _film_list(where: str, films: Any) -> list[tuple[str, float]]:
    """dicom_id and hours of two films or more, oldest first, all before the prediction time."""
    is_list = isinstance(films, list) and all(
        isinstance(film, tuple)
        and len(film) == 2
        and isinstance(film[0], str)
        and isinstance(film[1], int | float)
        for film in films
    )
    if not is_list:
        raise UserError(f"{where}: expected a list of (dicom_id, hours)")
    hours = np.array([film[1] for film in films], float)
    in_time = (hours >= 0).all() and (hours < ICU_HORIZON_HOURS).all()
    if len(films) < MIN_FILMS or not in_time or (np.diff(hours) <= 0).any():
        raise UserError(
            f"{where}: expected {MIN_FILMS} films or more, oldest first, from hour 0 to before "
            f"hour {ICU_HORIZON_HOURS:g}, found hours {hours.tolist()}"
        )
    return films


def read_gold_pairs(processed: Path) -> set[FilmPair] | None:
    """Pairs that a human annotated; None if the file is absent."""
    if not (processed / f"{GOLD.name}.csv").is_file():
        return None
    table = read_table(processed, GOLD)
    gold = table[table["from_golden"] == 1]
    return set(zip(gold["cxr1_dicom_id"], gold["cxr2_dicom_id"], strict=True))
