"""Raw tables: found as .csv or .csv.gz, read by column name with declared types, through DuckDB.

A value that does not have its column's type is an error that names file, row and column; columns
that are not declared are not even parsed, so releases may add or move them. Windows line ends, a
byte order mark and line breaks inside quotes are read as what they are.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from bench.data.vocabulary import DISEASE_IN_CHEXPERT
from bench.errors import UserError, nearest
from bench.preparing.workplace import Workplace

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

INTEGER: Final = "BIGINT"
NUMBER: Final = "DOUBLE"
TEXT: Final = "VARCHAR"
TIME: Final = "TIMESTAMP"
DATE: Final = "DATE"

EXACT: Final = "DECIMAL(18,6)"
"""What whole numbers are read as where they are checked: as `INTEGER`, 0.7 would become 1."""
MAX_HEADER: Final = 1_000_000
"""Bytes of a header at most; more is no header but a file that is not a table."""
TIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S"

IN_WORDS: Final = {
    INTEGER: "a whole number",
    "DECIMAL": "a whole number",
    NUMBER: "a number",
    TIME: "a time like 2155-01-10 03:00:00",
    DATE: "a date like 2155-01-10",
}


@dataclass(frozen=True)
class Table:
    """A raw table: where it lies and the columns that are read.

    name: path below its root, without .csv or .csv.gz (with its suffix if it has another)
    required: type of every column that must have a value in every row
    optional: type of every column that may be empty
    key: columns that name a row, so that no two rows may share them; none if empty
    limits: smallest and largest possible value of columns
    """

    name: str
    required: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    may_be_empty: bool = False
    key: tuple[str, ...] = ()
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, str]:
        """Type of every column that is read."""
        return {**self.required, **self.optional}


ICU_STAYS: Final = Table(
    "icu/icustays",
    {
        "subject_id": INTEGER,
        "hadm_id": INTEGER,
        "stay_id": INTEGER,
        "first_careunit": TEXT,
        "last_careunit": TEXT,
        "intime": TIME,
    },
    {"outtime": TIME},
    key=("stay_id",),
)
ADMISSIONS: Final = Table(
    "hosp/admissions",
    {
        "subject_id": INTEGER,
        "hadm_id": INTEGER,
        "admittime": TIME,
        "hospital_expire_flag": INTEGER,
    },
    {"dischtime": TIME, "deathtime": TIME, "language": TEXT, "marital_status": TEXT, "race": TEXT},
    key=("subject_id", "hadm_id"),
)
PATIENTS: Final = Table(
    "hosp/patients",
    {"subject_id": INTEGER, "anchor_age": NUMBER, "anchor_year": INTEGER},
    {"gender": TEXT, "dod": DATE},
    key=("subject_id",),
    limits={"anchor_age": (0, 120), "anchor_year": (1900, 9999)},
)
CHART_EVENTS: Final = Table(
    "icu/chartevents",
    {"subject_id": INTEGER, "charttime": TIME, "itemid": INTEGER},
    {"stay_id": INTEGER, "value": TEXT, "valuenum": NUMBER},
)
OUTPUT_EVENTS: Final = Table(
    "icu/outputevents",
    {"subject_id": INTEGER, "charttime": TIME, "itemid": INTEGER},
    {"stay_id": INTEGER, "value": NUMBER},
)
LAB_EVENTS: Final = Table(
    "hosp/labevents",
    {"subject_id": INTEGER, "charttime": TIME, "itemid": INTEGER},
    {"value": TEXT, "valuenum": NUMBER},
)
FILM_METADATA: Final = Table(
    "mimic-cxr-2.0.0-metadata",
    {
        "dicom_id": TEXT,
        "subject_id": INTEGER,
        "study_id": INTEGER,
        "StudyDate": INTEGER,
        "StudyTime": NUMBER,
    },
    {"ViewPosition": TEXT, "Rows": NUMBER, "Columns": NUMBER},
    key=("dicom_id",),
)
CHEXPERT: Final = Table(
    "mimic-cxr-2.0.0-chexpert",
    {"study_id": INTEGER},
    dict.fromkeys((*DISEASE_IN_CHEXPERT, "No Finding"), NUMBER),
    key=("study_id",),
)
GOLD_COMPARISONS: Final = Table(
    "gold_dataset/gold_object_comparison_with_coordinates.txt",
    {
        "patient_id": INTEGER,
        "bbox": TEXT,
        "comparison": TEXT,
        "attribute": TEXT,
        "label_name": TEXT,
        "current_image_id": TEXT,
        "previous_image_id": TEXT,
    },
    delimiter="\t",
    may_be_empty=True,
)


def find_table(root: Path, table: Table) -> Path:
    """Return the file of a table, unpacked or gzipped.

    Raises:
        UserError: it is not there.
    """
    name = Path(table.name)
    candidates = [root / name] if name.suffix == ".txt" else [root / f"{name}.csv"]
    candidates.append(candidates[0].with_name(candidates[0].name + ".gz"))
    for path in candidates:
        if path.is_file():
            return path
    raise UserError(f"{candidates[0]}[.gz] is not there: is {root} the folder as downloaded?")


def read_table(root: Path, table: Table, oddities: Counter[str] | None = None) -> pd.DataFrame:
    """Read the declared columns of a table, rows in file order.

    A row that repeats another one is left out and counted in `oddities`.

    Raises:
        UserError: the file is missing, broken or empty, lacks a column, holds a wrong value, or
            two rows say different things of one key.
    """
    path = find_table(root, table)
    columns = ", ".join(f'"{name}"' for name in table.types)
    frame = query(path, f"SELECT {columns} FROM {source(path, table, exact=True)}")
    for column in table.required:
        kind = table.required[column]
        expected = IN_WORDS.get(kind, "a text")
        refuse_first(path, frame, column, frame[column].isna(), expected)
        if kind == INTEGER:
            refuse_first(path, frame, column, frame[column] % 1 != 0, expected)
            frame[column] = frame[column].astype("int64")
    for column, (low, high) in table.limits.items():
        wrong = ~frame[column].between(low, high)
        refuse_first(path, frame, column, wrong, f"from {low} to {high}")
    return _unique(path, frame, table, oddities if oddities is not None else Counter())


def refuse_first(
    path: Path, frame: pd.DataFrame, column: str, wrong: pd.Series, expected: str
) -> None:
    """Check a column of a table that was read from `path`; wrong: bool [rows].

    Raises:
        UserError: a value is wrong; the first one is named with its row in the file.
    """
    if wrong.any():
        position = int(wrong.to_numpy().argmax())
        value, row = frame[column].iloc[position], row_of(int(frame.index[position]))
        found = "empty, expected" if pd.isna(value) else f"{value} is not"
        raise UserError(f"{path}, row {row}, column {column}: {found} {expected}")


def _unique(path: Path, frame: pd.DataFrame, table: Table, oddities: Counter[str]) -> pd.DataFrame:
    """Each key once; row numbers of the file stay as the index."""
    if not table.key:
        return frame
    key = list(table.key)
    repeated = frame.duplicated()
    unique = frame[~repeated]
    again = unique.duplicated(key)
    if again.any():
        second = unique[again].iloc[0]
        same = (unique[key] == second[key]).all(axis=1)
        rows = " and ".join(str(row_of(position)) for position in unique.index[same][:2])
        name = ", ".join(f"{column} {second[column]}" for column in key)
        raise UserError(f"{path}, rows {rows}: they differ, but both are of {name}; keep one")
    if repeated.any():
        oddities[f"rows left out: repeated in {Path(table.name).name}"] += int(repeated.sum())
    return unique


def row_of(position: int) -> int:
    """Row in the file (the header is row 1) of a position in a table that was read."""
    return position + 2


def source(path: Path, table: Table, exact: bool = False, as_text: Collection[str] = ()) -> str:
    """The SQL expression that scans a file by the declared types.

    `exact` reads whole numbers as decimals, so that a fraction is seen and not rounded. Columns
    `as_text` are for the query to convert, if it needs few of their values (`time_sql`).

    Raises:
        UserError: the file cannot be read, has no row, lacks a column or names one twice.
    """
    header = _header(path, table)
    for column in table.types:
        if column not in header:
            raise UserError(f"{path} has no column {column}: {nearest(column, header)}")
    for column in header:
        if column and header.count(column) > 1:
            raise UserError(f"{path}, row 1: two columns are named '{column}'; keep one")
    # A column without a name, as of row numbers or after a last comma, is one that nobody reads.
    named = [name or f"{number} without name" for number, name in enumerate(header)]
    types = {name: TEXT if name in as_text else table.types.get(name, TEXT) for name in named}
    listed = ", ".join(
        f"{_quoted(name)}: '{EXACT if exact and kind == INTEGER else kind}'"
        for name, kind in types.items()
    )
    return (
        f"read_csv({_quoted(_literal(path))}, columns = {{{listed}}}, auto_detect = false, "
        f"header = true, delim = '{table.delimiter}', quote = '\"', escape = '\"', "
        f"timestampformat = '{TIME_FORMAT}')"
    )


def time_sql(column: str) -> str:
    """A column that was read as text as times, of the format that a declared one must have."""
    return f"strptime({column}, '{TIME_FORMAT}')"


def query(path: Path, sql: str) -> pd.DataFrame:
    """Run a query that scans a small file, `path`.

    Raises:
        UserError: the file is broken or holds a value of another type than declared.
    """
    with _connected(path) as connection:
        return connection.execute(sql).df()


def stream(
    path: Path,
    table: Table,
    sql: str,
    frames: Mapping[str, pd.DataFrame],
    target: Path,
    work: Workplace,
) -> None:
    """Run a query that scans a file of any size; its rows, in no order, go to a Parquet file.

    `frames` can be joined by name.

    Raises:
        UserError: the file is broken or holds a value of another type than declared, or neither
            the memory nor the disk is enough.
    """
    import duckdb

    with _connected(path) as connection:
        connection.execute(
            f"SET threads = {work.jobs}; SET memory_limit = '{work.memory_gb}GB'; "
            f"SET temp_directory = {_quoted(str(work.spill))}; SET preserve_insertion_order = false"
        )
        for name, frame in frames.items():
            connection.register(name, frame)
        try:
            connection.execute(f"COPY ({sql}) TO {_quoted(str(target))} (FORMAT parquet)")
        except duckdb.InvalidInputException:
            # Text that the query could not convert is named without its row; the scanner names it.
            columns = ", ".join(f"max({name})" for name in table.types)
            connection.execute(f"SELECT {columns} FROM {source(path, table)}")
            raise


def number_list(numbers: Iterable[int]) -> str:
    """Numbers as SQL lists them."""
    return ", ".join(str(int(number)) for number in numbers)


@contextmanager
def _connected(path: Path) -> Iterator[DuckDBPyConnection]:
    """A new database on one thread; what it says of `path` becomes a user's error."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET threads = 1; SET enable_progress_bar = false")
        try:
            yield connection
        except duckdb.OutOfMemoryException:
            raise UserError(f"{path} cannot be read in so little memory: give more with --memory")
        except duckdb.Error as error:
            raise _explained(path, str(error)) from error


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _literal(path: Path) -> str:
    """A path in which no character is a wildcard."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _header(path: Path, table: Table) -> list[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        # As bytes: a wrong one further down is for the reader that knows its row.
        with opened(path, "rb") as file:
            first, second = file.readline(MAX_HEADER), file.readline(MAX_HEADER)
            later = b"" if second.strip() else next(filter(bytes.strip, file), b"")
        header = next(csv.reader([first.decode("utf-8-sig")], delimiter=table.delimiter), [])
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): download or unpack it again")
    if not header and not (second + later).strip():
        raise UserError(f"{path} is empty, not even a header: download or make it again")
    if not header:
        raise UserError(f"{path}, row 1: a blank line, expected the header: delete the line")
    if later:
        raise UserError(f"{path}, row 2: a blank line, expected a row: delete the line")
    if not second.strip() and not table.may_be_empty:
        raise UserError(f"{path} has no row: download or make it again")
    return header


def _explained(path: Path, message: str) -> UserError:
    """DuckDB's page of advice as one line: file, row, column, what is wrong."""
    row = re.search(r"Line: (\d+)", message)
    where = f"{path}, row {row[1]}" if row else str(path)
    wrong = re.search(
        r'converting column "(.*?)"\. Could not convert string "(.*?)" to \'(.+?)\'',
        message,
        re.DOTALL,
    )
    if wrong:
        column, value, kind = wrong.groups()
        return UserError(f"{where}, column {column}: {value!r} is not {IN_WORDS.get(kind, kind)}")
    columns = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if columns:
        return UserError(f"{where}: {columns[2]} fields, the header has {columns[1]}")
    if "No space left" in message:
        return UserError(f"the disk is full: no room for what is kept of {path}")
    first_line = message.splitlines()[0].removesuffix(f": {path}")
    return UserError(f"{where} cannot be read ({first_line}): download or unpack it again")
