"""Rows of an earlier process are found again if they are whole and of the same key."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UserError
from bench.preparing.row_store import RowLayout, RowStore

LAYOUT: RowLayout = {"films": (np.uint8, (3, 3)), "boxes": (np.float32, (4,))}


def values(number: int) -> dict[str, np.ndarray]:
    return {"films": np.full((3, 3), number, np.uint8), "boxes": np.full(4, np.nan, np.float32)}


def filled(folder: Path) -> RowStore:
    """Rows 0 and 2 of 4 written, by keys a and c."""
    store = RowStore(folder, 4, LAYOUT)
    store.write(0, "a", values(0))
    store.write(2, "c", values(7))
    return store


def held(store: RowStore) -> list[int]:
    return [row for row, key in enumerate("abcd") if store.holds(row, key)]


def test_written_rows_are_found_again(tmp_path: Path):
    assert held(RowStore(tmp_path, 4, LAYOUT)) == []
    assert held(filled(tmp_path)) == [0, 2]
    again = RowStore(tmp_path, 4, LAYOUT)
    assert held(again) == [0, 2]
    assert not again.holds(2, "a") and not again.holds(0, "c")
    assert (again.arrays["films"][2] == 7).all() and set(again.arrays) == {"films", "boxes"}


@pytest.mark.parametrize("name", ["films", "boxes"])
def test_a_damaged_row_is_not_held(name: str, tmp_path: Path):
    store = filled(tmp_path)
    store.arrays[name][2].flat[-1] = 1
    assert held(RowStore(tmp_path, 4, LAYOUT)) == [0]


def test_rows_of_another_layout_are_not_held(tmp_path: Path):
    filled(tmp_path)
    assert held(RowStore(tmp_path, 5, LAYOUT)) == []
    filled(tmp_path)
    assert held(RowStore(tmp_path, 4, {**LAYOUT, "boxes": (np.float32, (5,))})) == []


@pytest.mark.parametrize("name", ["films", "boxes", "journal"])
def test_a_missing_or_cut_file_starts_anew(name: str, tmp_path: Path):
    for damage in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:20])):
        filled(tmp_path)
        damage(tmp_path / f"{name}.npy")
        store = RowStore(tmp_path, 4, LAYOUT)
        assert held(store) == [] and not store.arrays["films"].any()


def test_files_that_belong_to_a_cohort_are_left_alone(tmp_path: Path):
    films = filled(tmp_path / "films").arrays["films"]
    of_cohort = tmp_path / "cohort.npy"
    before = np.array(films)
    of_cohort.hardlink_to(tmp_path / "films" / "films.npy")
    store = RowStore(tmp_path / "films", 4, LAYOUT)
    assert held(store) == []
    store.write(1, "other", {name: np.ones_like(array[1]) for name, array in store.arrays.items()})
    assert np.array_equal(np.load(of_cohort), before)


def test_no_rows_are_no_trouble(tmp_path: Path):
    assert RowStore(tmp_path, 0, LAYOUT).arrays["films"].shape == (0, 3, 3)


def test_a_full_disk_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*of: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match=r"films\.npy cannot be written: No space left"):
        RowStore(tmp_path, 4, LAYOUT)
