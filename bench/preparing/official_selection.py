"""Stays, films and pairs of the official scripts' two kinds of split files, as one selection.

Their data set class reads the files of one task and never those of the other. Where the two tell
different things of a stay, it becomes two rows, one of each task: every sample is as its file says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd

from bench.data.vocabulary import ICU_HORIZON_HOURS, LENGTH_OF_STAY_EDGES_DAYS
from bench.errors import UserError
from bench.preparing.events import HOUR
from bench.preparing.official_rows import Pair
from bench.preparing.official_tables import refuse, refuse_two
from bench.preparing.progression import FilmPair, no_labels
from bench.preparing.selection import Selection
from bench.preparing.stays import length_of_stay_class

SAME_HOUR: Final = 1e-6
"""Hours by which two files may differ on a film's time: it went through text more than once."""

PairKey = tuple[int, FilmPair]
"""Row of the stay, and the two films."""


def stays_at_odds(of_pairs: Sequence[Pair], of_stays: Sequence[Pair]) -> set[int]:
    """Stays of which disease progression and the ICU tasks cannot share one row.

    A film has two times, a pair has two region labels, or a pair has a film before the prediction
    time that the ICU sample does not have.
    """
    regions = {(pair.stay_id, pair.films): pair.regions for pair in of_stays}
    hours = {(pair.stay_id, film): at for pair in of_stays for film, at in pair.timed_films}
    samples = {pair.stay_id for pair in of_stays}

    def is_at_odds(pair: Pair) -> bool:
        same_regions = regions.get((pair.stay_id, pair.films), pair.regions)
        if (same_regions != pair.regions).any():
            return True
        listed = {film: hours.get((pair.stay_id, film), np.inf) for film in pair.films}
        return any(
            min(at, listed[film]) < ICU_HORIZON_HOURS and abs(at - listed[film]) > SAME_HOUR
            for film, at in pair.timed_films
        )

    return {pair.stay_id for pair in of_pairs if pair.stay_id in samples and is_at_odds(pair)}


def build_stays(
    progression: pd.DataFrame, icu: pd.DataFrame, at_odds: Collection[int]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Stays sorted by subject, and the split of every subject, sorted.

    `is_second` marks the second row of a stay at odds, which is its ICU sample.

    Raises:
        UserError: an outcome is not possible, or a subject is in two splits.
    """
    refuse(icu, ~icu["mortality_inhospital"].isin([0, 1]), "mortality_inhospital", "0 or 1")
    shortest = LENGTH_OF_STAY_EDGES_DAYS[0]
    possible = (icu["los"] >= shortest) & np.isfinite(icu["los"])
    refuse(icu, ~possible, "los", f"{shortest:g} days or more")
    named = ["subject_id", "stay_id", "split", "file", "row"]
    parts = [
        progression[named].assign(icu_sample=False, los_days=np.nan, mortality=0),
        icu[named].assign(
            icu_sample=True, los_days=icu["los"], mortality=icu["mortality_inhospital"]
        ),
    ]
    rows = pd.concat(parts, ignore_index=True)
    refuse_two(rows, "subject_id", "split")
    refuse_two(rows, "stay_id", "subject_id")
    rows["is_second"] = rows["icu_sample"] & rows["stay_id"].isin(at_odds)
    key = ["subject_id", "stay_id", "is_second"]
    # The ICU sample's first: of a stay's rows it alone tells the outcome.
    first = [*key, "icu_sample"]
    stays = rows.sort_values(first, ascending=[True, True, True, False], kind="stable")
    stays = stays.drop_duplicates(key).reset_index(drop=True)
    stays["where"] = stays["file"] + ", row " + stays["row"].astype(str)
    stays["length_of_stay"] = length_of_stay_class(stays["los_days"].fillna(shortest).to_numpy())
    return stays, stays.drop_duplicates("subject_id")["split"].to_numpy()


def build_selection(
    stays: pd.DataFrame,
    of_pairs: Sequence[Pair],
    of_stays: Sequence[Pair],
    gold: Collection[FilmPair],
) -> Selection:
    """Films and pairs of both tasks, each once in a row of `stays`; sorted by stay and time.

    Raises:
        UserError: a film has two times in the files of one task.
    """
    first, second = (_row_of_stay(stays, is_second) for is_second in (False, True))
    row_of_sample = first | second
    # Of a pair in both, disease progression's: it has the diseases' labels.
    pairs = {(row_of_sample[pair.stay_id], pair.films): pair for pair in of_stays}
    pairs |= {(first[pair.stay_id], pair.films): pair for pair in of_pairs}
    films = _films(stays, pairs)
    return _of_films(stays, films, pairs, gold)


def _row_of_stay(stays: pd.DataFrame, is_second: bool) -> dict[int, int]:
    rows = stays[stays["is_second"] == is_second]
    return dict(zip(rows["stay_id"], rows.index, strict=True))


def _films(stays: pd.DataFrame, pairs: Mapping[PairKey, Pair]) -> pd.DataFrame:
    """Every film: dicom_id, subject_id, stay, hours, seconds and where it is first named."""
    seen: dict[tuple[int, str], tuple[float, str]] = {}
    for (stay, _), pair in pairs.items():
        for film, hours in pair.timed_films:
            known, where = seen.setdefault((stay, film), (hours, pair.where))
            if abs(known - hours) > SAME_HOUR:
                raise UserError(
                    f"{pair.where}: film {film} is at hour {hours} of stay {pair.stay_id}, but at "
                    f"hour {known} in {where}; make the directory again"
                )
    films = pd.DataFrame(
        [(*film, *place) for film, place in seen.items()],
        columns=["stay", "dicom_id", "hours", "where"],
    )
    films["subject_id"] = stays["subject_id"].to_numpy()[films["stay"]]
    films["seconds"] = films["hours"] * HOUR
    return films.sort_values(["stay", "hours", "dicom_id"], ignore_index=True)


def _of_films(
    stays: pd.DataFrame,
    films: pd.DataFrame,
    pairs: Mapping[PairKey, Pair],
    gold: Collection[FilmPair],
) -> Selection:
    """The selection with each pair's rows of films."""
    row_of_film = {
        key: i for i, key in enumerate(zip(films["stay"], films["dicom_id"], strict=True))
    }
    rows = {
        (stay, names): (row_of_film[stay, names[0]], row_of_film[stay, names[1]])
        for stay, names in pairs
    }
    order = sorted(rows, key=rows.__getitem__)
    film_1, film_2 = np.array([rows[key] for key in order], np.int64).T
    stay = np.array([stay for stay, _ in order])
    # A pair's key is made of these names: no two rows may share them.
    mark = np.where(stays["is_second"].to_numpy()[stay], " of the ICU sample", "")
    table = pd.DataFrame(
        {
            "stay": stay,
            "film_1": film_1,
            "film_2": film_2,
            "previous": films["dicom_id"].to_numpy()[film_1] + mark.astype(object),
            "current": films["dicom_id"].to_numpy()[film_2],
        }
    )
    labels = replace(
        no_labels(len(order)),
        diseases=np.stack([pairs[key].diseases for key in order]),
        regions=np.stack([pairs[key].regions for key in order]),
        from_gold=np.array([key[1] in gold for key in order]),
    )
    return Selection(stays, films, table, labels)
