"""Arrays on disk that are filled row by row, and which of their rows are whole."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.errors import UserError

RowLayout = Mapping[str, tuple[type[np.generic], tuple[int, ...]]]
"""Dtype and shape of one row of each array, by name."""

Shapes = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

JOURNAL: Final = "journal"
ENTRY: Final = np.dtype([("key", "S16"), ("checksum", "<u4")])
"""The key of what a row was made from, and the CRC-32 of the row in all arrays; 0 at first."""


class RowStore:
    """`arrays`, each [n_rows, ...], in a folder; rows written before are found again.

    The journal tells a row's key and checksum. It is written after the row, so that a row of a
    killed process is either whole or unknown; the checksum tells after a crash of the machine.

    Raises:
        UserError: the disk refuses or is too small.
    """

    def __init__(self, folder: Path, n_rows: int, layout: RowLayout) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shapes: Shapes = {
            **{name: (np.dtype(kind), (n_rows, *row)) for name, (kind, row) in layout.items()},
            JOURNAL: (ENTRY, (n_rows,)),
        }
        self.arrays = _reopened(folder, shapes) or _created(folder, shapes)
        self._journal: Any = self.arrays.pop(JOURNAL)

    def holds(self, row: int, key: str) -> bool:
        """Whether a row was made from what has this key, and is whole."""
        entry = self._journal[row]
        return bool(entry["key"] == key.encode() and entry["checksum"] == self._checksum(row))

    def write(self, row: int, key: str, values: Mapping[str, np.ndarray]) -> None:
        """Fill a row of every array."""
        for name, array in self.arrays.items():
            array[row] = values[name]
        self._journal[row] = (key.encode(), self._checksum(row))

    def _checksum(self, row: int) -> int:
        checksum = 0
        for array in self.arrays.values():
            checksum = zlib.crc32(np.ascontiguousarray(array[row]).data, checksum)
        return checksum


def holds_rows(folder: Path) -> bool:
    """Whether any row of a store in this folder was ever written."""
    try:
        journal = np.load(folder / f"{JOURNAL}.npy", mmap_mode="r")
    except (OSError, ValueError):
        return False
    return journal.dtype == ENTRY and bool(journal["key"].any())


def _reopened(folder: Path, shapes: Shapes) -> dict[str, np.ndarray] | None:
    """The arrays of an earlier process; None if not all are there and of this shape.

    Nor if one belongs to a cohort already (`write_cohort` takes the files over): its process was
    killed after it had finished.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, (dtype, shape) in shapes.items():
        path = folder / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(path, mode="r+")
        except (OSError, ValueError):
            return None
        if array.dtype != dtype or array.shape != shape or path.stat().st_nlink > 1:
            return None
        arrays[name] = array
    return arrays


def _created(folder: Path, shapes: Shapes) -> dict[str, np.ndarray]:
    """Zeros on disk; the journal comes last and so never tells of arrays that are not there."""
    (folder / f"{JOURNAL}.npy").unlink(missing_ok=True)
    return {name: _zeros(folder / f"{name}.npy", *of) for name, of in shapes.items()}


def _zeros(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Their room is taken at once: a disk that is full later on would kill the process."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    try:
        # A new file: the old one may be a cohort's.
        path.unlink(missing_ok=True)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}")
    return array
