"""From selected rows to a cohort on disk, and where a cohort may be written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.cohort import Cohort, key_of, write_cohort
from bench.data.vocabulary import DISEASES
from bench.errors import UserError
from bench.preparing.ehr import Ehr
from bench.preparing.images import FilmFile, Sizes, prepare_films
from bench.preparing.provenance import Provenance
from bench.preparing.selection import Selection
from bench.preparing.workplace import Workplace, folder_beside, workplace


def check_out(path: Path, force: bool) -> None:
    """Refuse a place where a cohort cannot or may not be written, before any work is done.

    Raises:
        UserError: something is there, or the folder above it is no writable folder.
    """
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty and not force:
        if folder_beside(path).exists():
            # Killed between the last rename and tidying up.
            with workplace(path):
                pass
        raise UserError(f"{path} exists: choose another --out, or replace it with --force")
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{path} cannot be written: {above} is not a writable folder")


def write_selection(
    out: Path,
    selection: Selection,
    split: np.ndarray,
    ehr: Ehr,
    films: Sequence[FilmFile],
    findings: np.ndarray,
    sizes: Sizes,
    origin: Provenance,
    manifest: dict[str, Any],
    *,
    jobs: int = 1,
    nearest: bool = False,
    work: Workplace | None = None,
) -> Cohort:
    """Decode the films and write the cohort; nothing half-written stays behind.

    `split` follows the sorted subject ids, `films` and `findings` (int8 [films, 7]) the rows of the
    selection's films; `nearest` resizes crops by nearest neighbour. The caller's workplace `work`
    is used if there is one, else an own one with `jobs` cores.
    """
    secret = origin.secret()
    with nullcontext(work) if work else workplace(out, jobs) as place:
        images = prepare_films(films, sizes, place.films, place.jobs, nearest)
        return write_cohort(
            out,
            tables=_tables(selection, split, ehr, secret),
            arrays={
                "ehr_values": ehr.values,
                "ehr_observed": ehr.observed,
                "demographics": ehr.demographics,
                "region_progression": selection.labels.regions,
                "findings": findings,
                **images,
            },
            normalisation=ehr.normalisation,
            identifiers=_identifiers(selection, secret),
            manifest={**asdict(origin), **manifest},
        )


def _tables(
    selection: Selection, split: np.ndarray, ehr: Ehr, secret: bytes
) -> dict[str, pd.DataFrame]:
    """The tables of a cohort; EHR rows are those of the stays' windows, then of the pairs'."""
    stays, films = selection.stays, selection.films
    pairs, labels = selection.pairs, selection.labels
    subjects, subject_of_stay = np.unique(stays["subject_id"], return_inverse=True)
    offsets = ehr.of_stays.followed_by(ehr.of_pairs).offset
    film_pairs = zip(pairs["previous"], pairs["current"], strict=True)
    return {
        "subjects": pd.DataFrame(
            {
                "split": split,
                "subject_key": [key_of(secret, "subject", subject) for subject in subjects],
            }
        ),
        "stays": stays.assign(
            subject=subject_of_stay,
            stay_key=[key_of(secret, "stay", stay) for stay in stays["stay_id"]],
            ehr_offset=offsets[: len(stays)],
            n_hours=ehr.of_stays.n_hours,
        ),
        "films": films.assign(hours=films["seconds"] / 3600),
        "pairs": pairs.assign(
            pair_key=[key_of(secret, "pair", *pair) for pair in film_pairs],
            **dict(zip(DISEASES, labels.diseases.T, strict=True)),
            from_gold=labels.from_gold,
            first_hour=ehr.of_pairs.first_hour,
            ehr_offset=offsets[len(stays) :],
            n_hours=ehr.of_pairs.n_hours,
        ),
    }


def _identifiers(selection: Selection, secret: bytes) -> dict[str, Any]:
    """Raw identifiers in the order of the cohort's rows, and the key of their hashes."""
    return {
        "secret": secret.hex(),
        "subjects": np.unique(selection.stays["subject_id"]).tolist(),
        "stays": selection.stays["stay_id"].tolist(),
        "films": selection.films["dicom_id"].tolist(),
    }
