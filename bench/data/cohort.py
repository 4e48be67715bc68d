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
    boxes.npy                float32 [films, 19, 4]      x1 y1 x2 y2 in 0..1; NaN if absent
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
from collections.abc import Callable
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
    NOT_MENTIONED,
    REGIONS,
    Split,
)
from bench.errors import UserError

FORMAT_VERSION = 1

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
    "region_progression": (np.int8, (len(REGIONS), len(DISEASES))),
}
"""Dtype and trailing shape of each array; None is a size that the manifest names."""


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
        normalisation = Normalisation.from_json(json.loads((path / NORMALISATION).read_text()))
        cohort = cls(path, manifest, **tables, normalisation=normalisation, arrays=arrays)
        _validate(cohort)
        return cohort


def _read(path: Path, name: str, reader: Callable[[Path, str], Any]) -> Any:
    try:
        return reader(path, name)
    except FileNotFoundError as error:
        raise UserError(f"cohort {path} lacks {Path(error.filename).name}: prepare it again")
    except (ValueError, OSError) as error:
        raise UserError(f"cohort {path}: {name} cannot be read ({error}): prepare it again")


def _read_table(path: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(path / f"{name}.parquet")


def _read_array(path: Path, name: str) -> np.ndarray:
    file = path / f"{name}.npy"
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError:
        # An array without rows cannot be memory-mapped.
        return np.load(file, allow_pickle=False)


def _validate(cohort: Cohort) -> None:
    """Raise `UserError` at the first thing that does not hold together."""

    def check(holds: object, what: str) -> None:
        if not holds:
            raise UserError(f"cohort {cohort.path}: {what}: prepare it again")

    for name, columns in TABLE_COLUMNS.items():
        table = getattr(cohort, name)
        missing = set(columns) - set(table.columns)
        check(not missing, f"{name}.parquet lacks column {', '.join(sorted(missing))}")
    for name, (dtype, shape) in ARRAYS.items():
        array = cohort.arrays[name]
        check(array.dtype == dtype, f"{name}.npy is {array.dtype}, expected {np.dtype(dtype)}")
        check(array.ndim == len(shape) + 1, f"{name}.npy has {array.ndim} axes")
        sizes = zip(array.shape[1:], shape, strict=True)
        check(all(e is None or a == e for a, e in sizes), f"{name}.npy has shape {array.shape}")

    stays, films, pairs, arrays = cohort.stays, cohort.films, cohort.pairs, cohort.arrays
    rows = len(arrays["ehr_values"])
    check(len(arrays["ehr_observed"]) == rows, "ehr_observed.npy and ehr_values.npy differ in rows")
    for name in ("films", "regions", "region_present", "boxes"):
        check(len(arrays[name]) == len(films), f"{name}.npy and films.parquet differ in rows")
    check(len(arrays["demographics"]) == len(stays), "demographics.npy and stays.parquet differ")
    check(
        len(arrays["region_progression"]) == len(pairs), "region_progression.npy and pairs differ"
    )
    for table, column, size in (
        (stays, "subject", len(cohort.subjects)),
        (films, "stay", len(stays)),
        (pairs, "stay", len(stays)),
        (pairs, "film_1", len(films)),
        (pairs, "film_2", len(films)),
    ):
        check(table[column].between(0, size - 1).all(), f"column {column} points outside its table")
    for table in (stays, pairs):
        inside = (table["ehr_offset"] >= 0) & (table["ehr_offset"] + table["n_hours"] <= rows)
        check(bool(inside.all()), "an EHR window lies outside ehr_values.npy")
    check(set(cohort.subjects["split"]) <= set(Split), "subjects.parquet has an unknown split")
    labels = pairs[list(DISEASES)].to_numpy()
    check(bool(((labels >= 0) & (labels <= NOT_MENTIONED)).all()), "a progression label is unknown")
    check(bool(np.isfinite(arrays["ehr_values"]).all()), "ehr_values.npy holds NaN or infinity")


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
            array: np.ndarray = np.ascontiguousarray(arrays[name], dtype=dtype)
            np.save(partial / f"{name}.npy", array)
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.data)
        norm = json.dumps(normalisation.to_json())
        digest.update(norm.encode())
        (partial / NORMALISATION).write_text(norm)
        (partial / IDENTIFIERS).write_text(json.dumps(identifiers))
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
