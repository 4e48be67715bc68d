"""What a cohort is made of: stays, their films, pairs of films and the pairs' labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from bench.data.vocabulary import NOT_MENTIONED
from bench.errors import UserError
from bench.preparing.attrition import Attrition
from bench.preparing.films import read_films, select_films
from bench.preparing.progression import (
    FilmPair,
    Gold,
    PairLabels,
    consecutive_pairs,
    label_pairs,
    relations_by_pair,
)
from bench.preparing.rules import MIN_FILMS, Rules
from bench.preparing.scene_graphs import Box, SceneGraph, SceneGraphs
from bench.preparing.stays import read_stays, select_stays
from bench.preparing.tables import GOLD_COMPARISONS, find_table
from bench.preparing.windows import HORIZON_SECONDS


@dataclass(frozen=True)
class RawFolders:
    """The three raw data sets, as downloaded or simulated."""

    mimic_iv: Path
    mimic_cxr: Path
    imagenome: Path


@dataclass(frozen=True)
class Selection:
    """The rows of a cohort, with raw identifiers.

    stays: subject_id, stay_id, los_days, mortality, length_of_stay, icu_sample and what
        demographics are made of
    films: dicom_id, subject_id, study_id, stay (row in `stays`), seconds since ICU admission
    pairs: see `consecutive_pairs`
    labels: of the pairs
    """

    stays: pd.DataFrame
    films: pd.DataFrame
    pairs: pd.DataFrame
    labels: PairLabels


def select(
    raw: RawFolders, graphs: SceneGraphs, gold: Gold, rules: Rules, attrition: Attrition
) -> tuple[Selection, list[dict[str, Box]]]:
    """Apply every rule to the raw tables; also return the region boxes of the kept films."""
    oddities = attrition.oddities
    stays = select_stays(read_stays(raw.mimic_iv, oddities), rules, attrition)
    all_films = read_films(raw.mimic_cxr, oddities)
    films = select_films(all_films, stays, graphs, raw.mimic_cxr, rules, attrition)
    pairs = consecutive_pairs(films)
    read = _read_graphs(graphs, films, all_films, attrition)
    relations = relations_by_pair(
        (graph.relations for graph in read.values()),
        dict(zip(all_films["dicom_id"], all_films["study_id"], strict=True)),
        rules,
        oddities,
    )
    film_pairs = list(zip(pairs["previous"], pairs["current"], strict=True))
    _check_gold(gold, film_pairs, films, raw.imagenome, oddities)
    labels = label_pairs(film_pairs, relations, gold, rules)
    stays = stays.assign(icu_sample=has_early_films(films, len(stays)))
    selection = Selection(stays, films, pairs, labels)
    if rules.subjects_without_sample:
        selection = of_stays(selection, np.isin(np.arange(len(stays)), films["stay"]))
    else:
        selection = of_stays(selection, _gives_sample(selection))
        attrition.films("the stay gives a sample", selection.films)
    return selection, [read[dicom].boxes for dicom in selection.films["dicom_id"]]


def _check_gold(
    gold: Gold,
    pairs: list[FilmPair],
    films: pd.DataFrame,
    imagenome: Path,
    oddities: Counter[str],
) -> None:
    """Count gold rows of no pair; refuse a pair whose subject would not be kept for the test."""
    of_cohort = set(pairs)
    annotated = [row.pair for row in gold.rows if row.pair in of_cohort]
    oddities["gold rows left out: of no pair"] += len(gold.rows) - len(annotated)
    subject_of = dict(zip(films["dicom_id"], films["subject_id"], strict=True))
    for _, current in annotated:
        if subject_of[current] not in gold.subjects:
            raise UserError(
                f"{find_table(imagenome, GOLD_COMPARISONS)}: image {current} is of subject "
                f"{subject_of[current]}, whom no row names as patient_id; mend its rows"
            )


def of_stays(selection: Selection, keep: np.ndarray) -> Selection:
    """The selection of some stays (bool [stays]), rows numbered anew."""
    stays, films = selection.stays, selection.films
    pairs, labels = selection.pairs, selection.labels
    keep_film = keep[films["stay"]]
    keep_pair = keep[pairs["stay"]]
    new_stay, new_film = np.cumsum(keep) - 1, np.cumsum(keep_film) - 1
    kept_films, kept_pairs = films[keep_film], pairs[keep_pair]
    return Selection(
        stays=stays[keep].reset_index(drop=True),
        films=kept_films.assign(stay=new_stay[kept_films["stay"]]).reset_index(drop=True),
        pairs=kept_pairs.assign(
            stay=new_stay[kept_pairs["stay"]],
            film_1=new_film[kept_pairs["film_1"]],
            film_2=new_film[kept_pairs["film_2"]],
        ).reset_index(drop=True),
        labels=replace(labels, **{name: part[keep_pair] for name, part in vars(labels).items()}),
    )


def _gives_sample(selection: Selection) -> np.ndarray:
    """Whether a stay is a sample of the ICU tasks or has a labelled pair, bool [stays]."""
    gives = selection.stays["icu_sample"].to_numpy().copy()
    labelled = (selection.labels.diseases != NOT_MENTIONED).any(axis=1)
    gives[selection.pairs["stay"].to_numpy()[labelled]] = True
    return gives


def has_early_films(films: pd.DataFrame, n_stays: int) -> np.ndarray:
    """Whether a stay is a sample of the ICU tasks: two films or more in the first 48 h."""
    early = films.loc[films["seconds"] < HORIZON_SECONDS, "stay"]
    return np.bincount(early, minlength=n_stays) >= MIN_FILMS


def _read_graphs(
    graphs: SceneGraphs, films: pd.DataFrame, all_films: pd.DataFrame, attrition: Attrition
) -> dict[str, SceneGraph]:
    """The scene graphs of every image in the studies of the kept films, by dicom_id."""
    in_studies = all_films.loc[all_films["study_id"].isin(films["study_id"]), "dicom_id"]
    wanted = sorted(dicom for dicom in in_studies if dicom in graphs)
    bar = tqdm(wanted, desc="scene graphs", unit="graph", disable=None)
    return {dicom: graphs.read(dicom, attrition.oddities) for dicom in bar}
