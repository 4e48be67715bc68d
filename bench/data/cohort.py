"""A cohort: one directory that holds everything a run reads, validated when opened.

    manifest.json            format version, source, counts, content hash, how it was made
    subjects.parquet         subject, split, subject_key
    stays.parquet            one row a stay: outcome labels and where its 48 h EHR window lies
    films.parquet            one row a film: its stay and its hours since ICU admission
    pairs.parquet            one row a pair of consecutive films: labels and its own EHR window
    normalisation.json       mean and sd of every input, training subjects only
    ehr_values.npy           float32 [rows, 38]  hourly values, physical units, carried forward
    ehr_observed.npy         bool    [rows, 38]  a value was charted in that hour
    demographics.npy         float32 [stays, 17] physical units and 0/1; NaN where unknown
    films.npy                uint8   [films, S, S]       whole films, letterboxed to a square
    regions.npy              uint8   [films, 10, s, s]   region crops; zero where absent
    region_present.npy       bool    [films, 10]
    boxes.npy                float32 [films, 19, 4]      x1 y1 x2 y2, 0..1 of the square, or NaN
    findings.npy             int8    [films, 7]          1 shown, 0 not, -1 unknown; training only
    region_progression.npy   int8    [pairs, 10, 7]      per region and disease; 3 = not mentioned
    identifiers.json         the only file with raw identifiers; no run reads it

Each sample owns its EHR rows: a stay's window ends at the 48 h horizon, a pair's at its second
film, and rows are built from the events known by then, so nothing later is in the cohort at all.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.vocabulary import (
    BOX_REGIONS,
    DEMOGRAPHICS,
    DISEASES,
    EHR_VARIABLES,
    FINDING_UNKNOWN,
    ICU_HORIZON_HOURS,
    N_LENGTH_OF_STAY_CLASSES,
    NOT_MENTIONED,
    REGIONS,
    Split,
)
from bench.errors import UserError

FORMAT_VERSION = 2

MANIFEST = "manifest.json"
NORMALISATION = "normalisation.json"
IDENTIFIERS = "identifiers.json"

TABLE_COLUMNS = {
    "subjects": {"split": "str", "subject_key": "str"},
    "stays": {
        "subject": "int32",
        "stay_key": "str",
        "los_days": "float64",
        "mortality": "int8",
        "length_of_stay": "int8",
        "icu_sample": "bool",
        "ehr_offset": "int64",
        "n_hours": "int32",
    },
    "films": {"stay": "int32", "hours": "float64"},
    "pairs": {
        "stay": "int32",
        "pair_key": "str",
        "film_1": "int32",
        "film_2": "int32",
        **dict.fromkeys(DISEASES, "int8"),
        "from_gold": "bool",
        "first_hour": "int32",
        "ehr_offset": "int64",
        "n_hours": "int32",
    },
}
"""Columns of each table; the row number is the id that other tables refer to."""

ARRAYS = {
    "ehr_values": (np.float32, (len(EHR_VARIABLES),)),
    "ehr_observed": (np.bool_, (len(EHR_VARIABLES),)),
    "demographics": (np.float32, (len(DEMOGRAPHICS),)),
    "films": (np.uint8, (None, None)),
    "regions": (np.uint8, (len(REGIONS), None, None)),
    "region_present": (np.bool_, (len(REGIONS),)),
    "boxes": (np.float32, (len(BOX_REGIONS), 4)),
    "findings": (np.int8, (len(DISEASES),)),
    "region_progression": (np.int8, (len(REGIONS), len(DISEASES))),
}
"""Dtype and trailing shape of each array; None is a size that the manifest names."""

ARRAY_ROWS = {
    "demographics": "stays",
    "films": "films",
    "regions": "films",
    "region_present": "films",
    "boxes": "films",
    "findings": "films",
    "region_progression": "pairs",
}
"""Table whose rows an array has; the others have the rows of EHR windows."""

REFERENCES = (
    ("stays", "subject", "subjects"),
    ("films", "stay", "stays"),
    ("pairs", "stay", "stays"),
    ("pairs", "film_1", "films"),
    ("pairs", "film_2", "films"),
)
"""Table and column that hold row numbers of another table."""


@dataclass(frozen=True)
class Normalisation:
    """Location and scale of every input, fitted on training subjects only.

    `fill` is what stands for an unknown demographic after scaling: 0 for the continuous ones, the
    most frequent category for the one-hot groups.
    """

    ehr_mean: np.ndarray  # [38]
    ehr_sd: np.ndarray  # [38]
    demographics_mean: np.ndarray  # [17]
    demographics_sd: np.ndarray  # [17]
    demographics_fill: np.ndarray  # [17]

    def to_json(self) -> dict[str, list[float]]:
        """Return plain lists."""
        return {name: [float(v) for v in values] for name, values in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, list[float]]) -> Normalisation:
        """Inverse of `to_json`."""
        return cls(**{name: np.asarray(v, dtype=np.float64) for name, v in values.items()})


@dataclass(frozen=True)
class Cohort:
    """An opened cohort: tables in memory, arrays memory-mapped read-only.

    Attributes are named as the files of the module's docstring; `arrays` values have the dtypes and
    shapes given there. `path` is where it lies and decides nothing.
    """

    path: Path
    manifest: dict[str, Any]
    subjects: pd.DataFrame
    stays: pd.DataFrame
    films: pd.DataFrame
    pairs: pd.DataFrame
    normalisation: Normalisation
    arrays: dict[str, np.ndarray] = field(repr=False)

    @property
    def content_hash(self) -> str:
        """Hash of everything that moves a number; the same wherever the directory lies."""
        return str(self.manifest["content_hash"])

    @property
    def is_simulated(self) -> bool:
        """Whether any part of it is simulated: tables and figures must say so."""
        return bool(self.manifest["simulated"])

    @property
    def is_credentialed(self) -> bool:
        """Whether it holds data under a use agreement."""
        return bool(self.manifest["credentialed"])

    @property
    def title(self) -> str:
        """One phrase for tables and figures, e.g. 'simulated cohort, small, seed 7'."""
        return str(self.manifest["title"])

    def split_of_stays(self) -> np.ndarray:
        """Split name of every stay."""
        return self.subjects["split"].to_numpy()[self.stays["subject"].to_numpy()]

    @classmethod
    def open(cls, path: str | Path) -> Cohort:
        """Open and validate a cohort directory.

        Raises:
            UserError: it is not there, incomplete, of another format version or inconsistent.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise UserError(
                f"{path} is not a cohort (no {MANIFEST}): make one with python -m bench.prepare"
            )
        try:
            manifest = json.loads((path / MANIFEST).read_text())
        except ValueError as error:
            raise UserError(f"{path / MANIFEST} is not JSON ({error}): prepare the cohort again")
        if manifest.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{path} has cohort format {manifest.get('format_version')}, this version reads "
                f"{FORMAT_VERSION}: prepare it again"
            )
        tables = {name: _read(path, name, _read_table) for name in TABLE_COLUMNS}
        arrays = {name: _read(path, name, _read_array) for name in ARRAYS}
        normalisation = _read(path, "normalisation", _read_normalisation)
        cohort = cls(path, manifest, **tables, normalisation=normalisation, arrays=arrays)
        _validate(cohort)
        return cohort


def _read(path: Path, name: str, reader: Callable[[Path, str], Any]) -> Any:
    try:
        return reader(path, name)
    except FileNotFoundError:
        raise UserError(f"cohort {path} lacks the file of {name}: prepare it again")
    except (ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cohort {path}: {name} cannot be read ({reason}): prepare it again")


def _read_table(path: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(path / f"{name}.parquet")


def _read_normalisation(path: Path, name: str) -> Normalisation:
    return Normalisation.from_json(json.loads((path / f"{name}.json").read_text()))


def _read_array(path: Path, name: str) -> np.ndarray:
    file = path / f"{name}.npy"
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError:
        # An array without rows cannot be memory-mapped.
        return np.load(file, allow_pickle=False)


def _validate(cohort: Cohort) -> None:
    """Raise `UserError` at the first thing that does not hold together."""
    for fault in (_faults_of_kind, _faults_of_reference, _faults_of_content):
        for what in fault(cohort):
            raise UserError(f"cohort {cohort.path}: {what}: prepare it again")


def _faults_of_kind(cohort: Cohort) -> Iterator[str]:
    """Columns, dtypes, shapes and numbers of rows."""
    for name, columns in TABLE_COLUMNS.items():
        missing = set(columns) - set(getattr(cohort, name).columns)
        if missing:
            yield f"{name}.parquet lacks column {', '.join(sorted(missing))}"
    for name, (dtype, shape) in ARRAYS.items():
        array = cohort.arrays[name]
        if array.dtype != dtype:
            yield f"{name}.npy is {array.dtype}, expected {np.dtype(dtype)}"
        if array.ndim != len(shape) + 1:
            yield f"{name}.npy has {array.ndim} axes"
        if any(e not in (None, a) for a, e in zip(array.shape[1:], shape, strict=True)):
            yield f"{name}.npy has shape {array.shape}"
    for name, owner in ARRAY_ROWS.items():
        if len(cohort.arrays[name]) != len(getattr(cohort, owner)):
            yield f"{name}.npy and {owner}.parquet differ in rows"
    if len(cohort.arrays["ehr_observed"]) != len(cohort.arrays["ehr_values"]):
        yield "ehr_observed.npy and ehr_values.npy differ in rows"


def _faults_of_reference(cohort: Cohort) -> Iterator[str]:
    """Rows that point to other rows."""
    for name, column, other in REFERENCES:
        inside = getattr(cohort, name)[column].between(0, len(getattr(cohort, other)) - 1)
        if not inside.all():
            yield f"{name}.parquet, column {column} points outside {other}.parquet"
    for name in ("stays", "pairs"):
        table = getattr(cohort, name)
        ends = table["ehr_offset"] + table["n_hours"]
        if (table["ehr_offset"] < 0).any() or (ends > len(cohort.arrays["ehr_values"])).any():
            yield f"{name}.parquet: an EHR window lies outside ehr_values.npy"
    first, second = (cohort.films.iloc[cohort.pairs[c]] for c in ("film_1", "film_2"))
    for films in (first, second):
        if (films["stay"].to_numpy() != cohort.pairs["stay"].to_numpy()).any():
            yield "pairs.parquet: a pair has films of another stay"
    if (first["hours"].to_numpy() > second["hours"].to_numpy()).any():
        yield "pairs.parquet: a pair's first film is not the older one"
    early = cohort.films.loc[cohort.films["hours"] < ICU_HORIZON_HOURS, "stay"].value_counts()
    if (early.reindex(cohort.stays.index[cohort.stays["icu_sample"]], fill_value=0) < 2).any():
        yield "stays.parquet: an ICU sample has fewer than two films in its first 48 h"


def _faults_of_content(cohort: Cohort) -> Iterator[str]:
    """Values that cannot be."""
    if not set(cohort.subjects["split"]) <= set(Split):
        yield "subjects.parquet has an unknown split"
    if not cohort.pairs[list(DISEASES)].isin(range(NOT_MENTIONED + 1)).all(axis=None):
        yield "pairs.parquet: a progression label is unknown"
    if not np.isin(cohort.arrays["findings"], (FINDING_UNKNOWN, 0, 1)).all():
        yield "findings.npy: a label is neither 0, 1 nor unknown"
    for column, n_classes in {"mortality": 2, "length_of_stay": N_LENGTH_OF_STAY_CLASSES}.items():
        if not cohort.stays[column].isin(range(n_classes)).all():
            yield f"stays.parquet: a label in column {column} is unknown"
    if not np.isfinite(cohort.arrays["ehr_values"]).all():
        yield "ehr_values.npy holds NaN or infinity"
    for name, values in vars(cohort.normalisation).items():
        width = len(EHR_VARIABLES if name.startswith("ehr") else DEMOGRAPHICS)
        possible = values > 0 if name.endswith("_sd") else np.isfinite(values)
        if values.shape != (width,) or not possible.all():
            yield f"{NORMALISATION}: {name} is not {width} usable numbers"


def key_of(secret: bytes, *parts: object) -> str:
    """Keyed hash of an identifier, 16 hex digits: what run records hold instead of it."""
    message = ":".join(map(str, parts)).encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()[:16]


def write_cohort(
    path: Path,
    *,
    tables: dict[str, pd.DataFrame],
    arrays: dict[str, np.ndarray],
    normalisation: Normalisation,
    identifiers: dict[str, Any],
    manifest: dict[str, Any],
) -> Cohort:
    """Write a cohort beside `path` and move it there in one rename; an older one there is replaced.

    `manifest` gives title, simulated, credentialed and whatever tells how it was made; counts,
    format version and content hash are added here. Nothing half-written stays behind.

    Raises:
        UserError: the parts do not hold together (the message says where), or the disk refuses.
    """
    path = path.absolute()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    replaced = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        digest = hashlib.sha256()
        for name, columns in TABLE_COLUMNS.items():
            table = tables[name].astype(columns)[list(columns)].reset_index(drop=True)
            table.to_parquet(partial / f"{name}.parquet", index=False)
            content = table.drop(columns=[c for c in columns if c.endswith("_key")])
            digest.update(content.to_csv(index=False, lineterminator="\n").encode())
        for name, (dtype, _) in ARRAYS.items():
            array: np.ndarray = np.require(arrays[name], dtype, "C")
            _save(partial / f"{name}.npy", array)
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.data)
        norm = json.dumps(normalisation.to_json())
        digest.update(norm.encode())
        (partial / NORMALISATION).write_text(norm)
        _write_private(partial / IDENTIFIERS, json.dumps(identifiers))
        counts = {name: len(tables[name]) for name in TABLE_COLUMNS}
        full = {
            "format_version": FORMAT_VERSION,
            **manifest,
            "counts": counts,
            "film_size": int(arrays["films"].shape[-1]),
            "region_size": int(arrays["regions"].shape[-1]),
            "content_hash": digest.hexdigest()[:16],
        }
        (partial / MANIFEST).write_text(json.dumps(full, indent=1))
        Cohort.open(partial)  # validates
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
    except OSError as error:
        raise UserError(f"cannot write cohort {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return Cohort.open(path)


def _write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner may read."""
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)


def _save(path: Path, array: np.ndarray) -> None:
    """Save an array; one that is a whole file of this disk (films: gigabytes) is not copied."""
    if isinstance(array, np.memmap) and array.filename is not None:
        array.flush()
        whole = np.load(array.filename, mmap_mode="r")
        if whole.shape == array.shape and whole.dtype == array.dtype:
            try:
                path.hardlink_to(array.filename)
                return
            except OSError:
                # Another disk, or one that knows no second names.
                pass
    np.save(path, array)
