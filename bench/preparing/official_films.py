"""Films of a directory of the official scripts: where they lie and the boxes of their regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from bench.data.vocabulary import BOX_REGIONS
from bench.errors import UserError
from bench.preparing.films import film_path
from bench.preparing.images import FilmFile
from bench.preparing.official_tables import BOXES, FILMS, located, parsed, place, refuse_absent
from bench.preparing.scene_graphs import NO_BOX, Box
from bench.preparing.tables import find_table, read_table

MAX_SIDE: Final = 10_000
"""Of a box in pixels; films have sides of 2000 to 4300."""


def find_films(
    processed: Path, mimic_cxr: Path, films: pd.DataFrame, oddities: Counter[str]
) -> list[FilmFile]:
    """Where the films lie, with the boxes of their regions."""
    table, path = read_table(processed, BOXES), find_table(processed, BOXES)
    refuse_absent(films, "dicom_id", table["cxr_id"], path)
    table = located(table, path).set_index("cxr_id")
    boxes = [_boxes(row, oddities) for row in table.loc[films["dicom_id"]].to_dict("records")]
    paths = _film_paths(mimic_cxr, films)
    return [FilmFile(*film) for film in zip(paths, boxes, strict=True)]


def _boxes(row: Mapping[Hashable, Any], oddities: Counter[str]) -> dict[str, Box]:
    """Boxes of a film; one that is all 0 is none, and another without area is left out."""
    boxes: dict[str, Box] = {}
    for region in BOX_REGIONS:
        sides = parsed(place(row), region, row[region])
        is_box = (
            isinstance(sides, list | tuple)
            and len(sides) == 4
            and all(type(side) in (int, float) and side % 1 == 0 for side in sides)
        )
        if not is_box:
            raise UserError(
                f"{place(row)}, column {region}: {row[region]!r} is not [x1, y1, x2, y2] in "
                "whole pixels"
            )
        x1, y1, x2, y2 = box = tuple(int(side) for side in sides)
        if max(x2 - x1, y2 - y1) > MAX_SIDE:
            raise UserError(
                f"{place(row)}, column {region}: {row[region]} has a side above {MAX_SIDE} pixels"
            )
        if x1 < x2 and y1 < y2:
            boxes[region] = (x1, y1, x2, y2)
        elif box != NO_BOX:
            oddities["region boxes left out: reversed or without area"] += 1
    return boxes


def _film_paths(mimic_cxr: Path, films: pd.DataFrame) -> list[Path]:
    """Below files/ by subject and study, or side by side where there is no such folder."""
    if not (mimic_cxr / "files").is_dir():
        return [mimic_cxr / f"{dicom_id}.jpg" for dicom_id in films["dicom_id"]]
    table, path = read_table(mimic_cxr, FILMS), find_table(mimic_cxr, FILMS)
    refuse_absent(films, "dicom_id", table["dicom_id"], path)
    known = located(table, path).set_index("dicom_id").loc[films["dicom_id"]]
    wrong = known["subject_id"].to_numpy() != films["subject_id"].to_numpy()
    if wrong.any():
        at, film = known[wrong].iloc[0], films[wrong].iloc[0]
        raise UserError(
            f"{film['where']}: film {film['dicom_id']} is of subject_id {film['subject_id']}, but "
            f"of {at['subject_id']} in {path}, row {at['row']}: is it the same release?"
        )
    return [film_path(mimic_cxr, film) for film in known.reset_index().itertuples()]
