"""Loose image files to a small cohort, so that methods can be run on any films at hand.

One stay a patient, films 12 hours apart in the order of their names, no EHR, no labels, and the
boxes of a typical patient instead of annotated ones: good for trying things out, for no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.cohort import Cohort
from bench.errors import UserError
from bench.preparing.ehr import unknown_ehr
from bench.preparing.events import HOUR
from bench.preparing.findings import unknown_findings
from bench.preparing.images import FilmFile, Sizes, open_film
from bench.preparing.progression import consecutive_pairs, no_labels
from bench.preparing.provenance import Provenance
from bench.preparing.selection import Selection, has_early_films
from bench.preparing.splits import split_subjects
from bench.preparing.writing import write_selection
from bench.simulating.boxes import canonical_boxes

HOURS_BETWEEN_FILMS = 12

ORIGIN = Provenance("loose films, canonical boxes, no EHR", simulated=False, credentialed=False)


def prepare_loose_films(
    paths: Sequence[Path], out: Path, sizes: Sizes, seed: int = 0, jobs: int = 1
) -> Cohort:
    """Prepare image files; `00000013_004.jpg` is a film of patient 00000013.

    ICU labels are 0 and mean nothing (the manifest says labels 'none'); length of stay is NaN.

    Raises:
        UserError: there is no film, or one is missing, broken or no image.
    """
    if not paths:
        raise UserError("no film is named: give one image file or more")
    paths = sorted(paths, key=lambda path: path.name)
    selection = _selection(paths)
    subjects = np.unique(selection.stays["subject_id"])
    order = selection.films["position"]
    return write_selection(
        out,
        selection,
        split_subjects(subjects, (), np.random.default_rng(seed)),
        unknown_ehr(selection),
        [_with_canonical_boxes(paths[position]) for position in order],
        unknown_findings(len(paths)),
        sizes,
        ORIGIN,
        {"labels": "none", "region_boxes": "canonical", "split_seed": seed},
        jobs=jobs,
    )


def _selection(paths: Sequence[Path]) -> Selection:
    patient = [path.stem.split("_")[0] for path in paths]
    subjects, stay = np.unique(patient, return_inverse=True)
    films = pd.DataFrame(
        {
            "dicom_id": [path.stem for path in paths],
            "subject_id": patient,
            "stay": stay,
            "position": np.arange(len(paths)),
        }
    ).sort_values(["stay", "position"], ignore_index=True)
    films["seconds"] = films.groupby("stay").cumcount() * HOURS_BETWEEN_FILMS * HOUR
    pairs = consecutive_pairs(films)
    stays = pd.DataFrame(
        {
            "subject_id": subjects,
            "stay_id": subjects,
            "los_days": np.nan,
            "mortality": 0,
            "length_of_stay": 0,
            "icu_sample": has_early_films(films, len(subjects)),
        }
    )
    return Selection(stays, films, pairs, no_labels(len(pairs)))


def _with_canonical_boxes(path: Path) -> FilmFile:
    boxes = canonical_boxes(*open_film(path).size)
    return FilmFile(
        path,
        {name: (round(a), round(b), round(c), round(d)) for name, (a, b, c, d) in boxes.items()},
    )
