"""Every image of a simulated cohort: the films that count, and those that a reader leaves aside."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np
import pandas as pd

from bench.simulating.identifiers import Identifiers, draw_dicom_id, draw_unused, seconds
from bench.simulating.population import Population
from bench.simulating.streams import Tag, stream


class Kind(StrEnum):
    """What an image is to a reader."""

    FILM = "film"
    """A film of the population, AP."""
    SECOND_AP = "second AP"
    """Another AP image of a film's study; its dicom_id sorts after the film's."""
    OTHER_VIEW = "other view"
    """A PA or lateral image of a film's study."""
    EARLIER = "earlier"
    """AP image of a study before the subject's first stay; a stay's first film may refer to it."""


SHARE: Final = {"AP": 0.05, "PA": 0.03, "LATERAL": 0.04}
"""Films whose study holds one more image of this view."""

SHARE_EARLIER: Final = 0.2
"""Stays whose first film has an earlier one to be compared with."""

EARLIER_DAYS: Final = (5.0, 300.0)


def draw_images(population: Population, ids: Identifiers) -> pd.DataFrame:
    """The films in their order, then the other images; these show what their film shows.

    Returns:
        Columns film (row of the film), kind, dicom_id, subject_id, study_id, view, taken
        (datetime64[s]).
    """
    subject = population.stays["subject"].to_numpy()[population.films["stay"]]
    films = pd.DataFrame(
        {
            "film": np.arange(len(subject)),
            "kind": Kind.FILM,
            "dicom_id": ids.dicom_id,
            "subject_id": ids.subject_id[subject],
            "study_id": ids.study_id,
            "view": "AP",
            "taken": ids.film_times(population.films),
        }
    )
    rng = stream(population.seed, Tag.WRITING, 4)
    in_study, earlier = _in_studies(films, rng), _earlier(films, population, ids, rng)
    return pd.concat([films, in_study, earlier], ignore_index=True)


def _in_studies(films: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Further images of the films' own studies."""
    views, shares = list(SHARE), list(SHARE.values())
    view = rng.choice([*views, ""], size=len(films), p=[*shares, 1 - sum(shares)])
    others = films.assign(view=view)[view != ""]
    kind = np.where(others["view"] == "AP", Kind.SECOND_AP, Kind.OTHER_VIEW)
    dicom = [_larger_dicom_id(rng, film) for film in others["dicom_id"]]
    return others.assign(kind=kind, dicom_id=dicom)


def _larger_dicom_id(rng: np.random.Generator, dicom_id: str) -> str:
    """One that sorts after `dicom_id`: of a study's images the smallest counts."""
    while (drawn := draw_dicom_id(rng)) <= dicom_id:
        pass
    return drawn


def _earlier(
    films: pd.DataFrame, population: Population, ids: Identifiers, rng: np.random.Generator
) -> pd.DataFrame:
    """Studies of their own before the subject's first stay."""
    stay = population.films["stay"]
    chosen = ~stay.duplicated().to_numpy() & (rng.random(len(films)) < SHARE_EARLIER)
    first_intime = pd.Series(ids.intime).groupby(population.stays["subject"]).min().to_numpy()
    before = first_intime[population.stays["subject"].to_numpy()[stay[chosen]]]
    return films[chosen].assign(
        kind=Kind.EARLIER,
        dicom_id=[draw_dicom_id(rng) for _ in range(chosen.sum())],
        study_id=draw_unused(rng, 50_000_000, ids.study_id, chosen.sum()),
        taken=before - seconds(24 * rng.uniform(*EARLIER_DAYS, chosen.sum())),
    )
