"""The tables of a directory of the official scripts, and how a wrong value is refused."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from bench.data.vocabulary import BOX_REGIONS, DEMOGRAPHICS, DISEASES, EHR_VARIABLES, REGIONS, Split
from bench.errors import UserError
from bench.preparing.tables import INTEGER, NUMBER, TEXT, Table, find_table, read_table, row_of

SPLITS: Final = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}
"""Name of a split's file -> our split."""

REGION_COLUMNS: Final = {f"{region}_progression": TEXT for region in REGIONS}

PROGRESSION: Final = Table(
    "split/disease_progression",
    {
        "subject_id": INTEGER,
        "stay_id": INTEGER,
        "cxr1_dicom_id": TEXT,
        "cxr2_dicom_id": TEXT,
        "cxr1_time": NUMBER,
        "cxr2_time": NUMBER,
        **REGION_COLUMNS,
    },
    dict.fromkeys(DISEASES, TEXT),
    key=("cxr1_dicom_id", "cxr2_dicom_id"),
)

ICU: Final = Table(
    "split/mortality_los",
    {
        "subject_id": INTEGER,
        "stay_id": INTEGER,
        "cxr_list": TEXT,
        "mortality_inhospital": NUMBER,
        "los": NUMBER,
        **REGION_COLUMNS,
    },
    key=("stay_id",),
)
"""Like `PROGRESSION`: the folder of a task's three files and the columns of each."""

EHR_COLUMNS: Final = {
    "regular_interval": INTEGER,
    **dict.fromkeys(EHR_VARIABLES, NUMBER),
    **{f"{name}_mask": INTEGER for name in EHR_VARIABLES},
}

BOXES: Final = Table(
    "cxr_bbox", {"cxr_id": TEXT, **dict.fromkeys(BOX_REGIONS, TEXT)}, key=("cxr_id",)
)

STATIC: Final = Table(
    "demographic_processed",
    {"stay_id": INTEGER, **dict.fromkeys(DEMOGRAPHICS, NUMBER)},
    key=("stay_id",),
)

GOLD: Final = Table(
    "golden_corrected_neighbor_progression",
    {"cxr1_dicom_id": TEXT, "cxr2_dicom_id": TEXT, "from_golden": INTEGER},
    may_be_empty=True,
)
"""The one file that their data set class does not read; it may be absent."""

FILMS: Final = Table(
    "mimic-cxr-2.0.0-metadata",
    {"dicom_id": TEXT, "subject_id": INTEGER, "study_id": INTEGER},
    key=("dicom_id",),
)


def read_splits(processed: Path, task: Table, oddities: Counter[str]) -> pd.DataFrame:
    """The three files of a task, with the split, file and row of every row."""
    parts = []
    for name, split in SPLITS.items():
        table = replace(task, name=f"{task.name}/{name}")
        part = located(read_table(processed, table, oddities), find_table(processed, table))
        parts.append(part.assign(split=str(split)))
    return pd.concat(parts, ignore_index=True)


def located(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A table that was read, with the file and row of every row."""
    return table.assign(file=str(path), row=row_of(0) + table.index)


def place(row: Mapping[Hashable, Any]) -> str:
    """File and row of a located row, in words."""
    return f"{row['file']}, row {row['row']}"


def refuse(rows: pd.DataFrame, wrong: pd.Series, column: str, expected: str) -> None:
    """Refuse the first wrong value (bool [rows])."""
    if wrong.any():
        first = rows[wrong].iloc[0]
        raise UserError(
            f"{first['file']}, row {first['row']}, column {column}: {first[column]} is not "
            f"{expected}; make the directory again"
        )


def refuse_two(rows: pd.DataFrame, column: str, other: str) -> None:
    """Refuse an identifier in `column` that rows put under two values of `other`."""
    wrong = rows[other] != rows.groupby(column)[other].transform("first")
    if wrong.any():
        here = rows[wrong].iloc[0]
        there = rows[rows[column] == here[column]].iloc[0]
        raise UserError(
            f"{here['file']}, row {here['row']}, column {column}: {here[column]} has {other} "
            f"{here[other]}, but {there[other]} in {there['file']}, row {there['row']}; keep one"
        )


def refuse_absent(rows: pd.DataFrame, column: str, known: pd.Series, path: Path) -> None:
    """Refuse the first row whose identifier another file does not have."""
    absent = ~rows[column].isin(known)
    if absent.any():
        first = rows[absent].iloc[0]
        raise UserError(
            f"{path} has no row of {column} {first[column]}, which {first['where']} names; "
            "make the directory again"
        )


NUMPY_NUMBER: Final = re.compile(r"\bnp\.(?:float|int)\d+\(([^()]*)\)")
"""A number as numpy from version 2 on prints it in a list."""


def parsed(where: str, column: str, text: str) -> Any:
    """A Python literal; nothing in it is run."""
    try:
        return ast.literal_eval(NUMPY_NUMBER.sub(r"\1", text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise UserError(
            f"{where}, column {column}: {text[:60]!r} is not a plain Python value; "
            "make the directory again"
        )
