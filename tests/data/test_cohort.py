"""The cohort directory: what is written comes back, broken ones are refused, hashes, atomicity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.data.cohort import (
    ARRAYS,
    IDENTIFIERS,
    MANIFEST,
    NORMALISATION,
    TABLE_COLUMNS,
    Cohort,
    key_of,
    write_cohort,
)
from bench.data.miniature import miniature_cohort, miniature_parts
from bench.data.vocabulary import DISEASES, Split
from bench.errors import UserError

FILES = [
    *(f"{name}.parquet" for name in TABLE_COLUMNS),
    *(f"{name}.npy" for name in ARRAYS),
    NORMALISATION,
]


@pytest.fixture
def copy(cohort: Cohort, tmp_path: Path) -> Path:
    """A cohort that a test may break."""
    return shutil.copytree(cohort.path, tmp_path / "copy")


def refusal(path: Path) -> str:
    """The one line by which a broken cohort is refused."""
    with pytest.raises(UserError) as error:
        Cohort.open(path)
    message = str(error.value)
    assert str(path) in message
    assert "prepare" in message
    assert "\n" not in message
    return message


class TestOpening:
    def test_what_was_written_comes_back(self, tmp_path: Path) -> None:
        parts = miniature_parts()
        cohort = write_cohort(tmp_path / "cohort", **parts)
        for name, columns in TABLE_COLUMNS.items():
            table = getattr(cohort, name)
            assert list(table.columns) == list(columns)
            pd.testing.assert_frame_equal(
                table, parts["tables"][name][list(columns)], check_dtype=False
            )
        for name, (dtype, _) in ARRAYS.items():
            assert cohort.arrays[name].dtype == dtype
            np.testing.assert_array_equal(cohort.arrays[name], parts["arrays"][name])
        for name, values in vars(parts["normalisation"]).items():
            np.testing.assert_array_equal(getattr(cohort.normalisation, name), values)
        assert cohort.manifest["counts"]["films"] == len(cohort.films)
        assert (cohort.manifest["film_size"], cohort.manifest["region_size"]) == (32, 16)
        assert (cohort.is_simulated, cohort.is_credentialed) == (True, False)
        assert cohort.title == "miniature cohort, seed 0"

    def test_an_array_that_is_a_file_is_taken_over_without_a_copy(self, tmp_path: Path) -> None:
        parts = miniature_parts()
        hash_of_arrays = write_cohort(tmp_path / "from-memory", **parts).content_hash
        file = tmp_path / "films.npy"
        np.save(file, parts["arrays"]["films"])
        films = np.load(file, mmap_mode="r+")
        # The second has the whole file's shape, but not its rows in their order.
        for name, array in {"whole": films, "reversed": films[::-1]}.items():
            parts["arrays"]["films"] = array
            cohort = write_cohort(tmp_path / name, **parts)
            np.testing.assert_array_equal(cohort.arrays["films"], array)
            assert (cohort.path / "films.npy").samefile(file) == (name == "whole")
            assert (cohort.content_hash == hash_of_arrays) == (name == "whole")

    def test_arrays_are_mapped_read_only(self, cohort: Cohort) -> None:
        assert isinstance(cohort.arrays["films"], np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            cohort.arrays["films"][0] = 0

    def test_a_cohort_without_pairs_opens(self, tmp_path: Path) -> None:
        parts = miniature_parts()
        parts["tables"]["pairs"] = parts["tables"]["pairs"].iloc[:0]
        parts["arrays"]["region_progression"] = parts["arrays"]["region_progression"][:0]
        assert len(write_cohort(tmp_path / "cohort", **parts).pairs) == 0

    def test_split_of_stays(self, cohort: Cohort) -> None:
        expected = [cohort.subjects["split"][subject] for subject in cohort.stays["subject"]]
        assert list(cohort.split_of_stays()) == expected
        assert set(expected) == set(Split)


class TestRefusing:
    def test_a_place_without_cohort(self, tmp_path: Path) -> None:
        assert "is not a cohort" in refusal(tmp_path)
        assert "is not a cohort" in refusal(tmp_path / "nowhere")

    def test_another_format_version(self, copy: Path) -> None:
        manifest = json.loads((copy / MANIFEST).read_text())
        (copy / MANIFEST).write_text(json.dumps(manifest | {"format_version": 0}))
        assert "format 0" in refusal(copy)

    @pytest.mark.parametrize("name", FILES)
    def test_a_missing_file(self, name: str, copy: Path) -> None:
        (copy / name).unlink()
        assert f"lacks the file of {name.partition('.')[0]}" in refusal(copy)

    @pytest.mark.parametrize("name", [MANIFEST, *FILES])
    def test_a_file_that_is_something_else(self, name: str, copy: Path) -> None:
        (copy / name).write_text("something else")
        assert name.partition(".")[0] in refusal(copy)

    @pytest.mark.parametrize("name", ARRAYS)
    def test_a_file_that_ends_early(self, name: str, copy: Path) -> None:
        whole = (copy / f"{name}.npy").read_bytes()
        (copy / f"{name}.npy").write_bytes(whole[: len(whole) // 2])
        assert name in refusal(copy)

    @pytest.mark.parametrize("name", TABLE_COLUMNS)
    def test_a_missing_column(self, name: str, copy: Path) -> None:
        table = pd.read_parquet(copy / f"{name}.parquet")
        table.drop(columns=table.columns[-1]).to_parquet(copy / f"{name}.parquet")
        assert f"{name}.parquet lacks column {table.columns[-1]}" in refusal(copy)

    @pytest.mark.parametrize("name", ARRAYS)
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda a: a.astype(np.float16), id="dtype"),
            pytest.param(lambda a: a[..., None], id="axes"),
            pytest.param(lambda a: a[:-1], id="rows"),
        ],
    )
    def test_an_array_of_another_kind(
        self, name: str, change: Callable[[np.ndarray], np.ndarray], copy: Path
    ) -> None:
        file = copy / f"{name}.npy"
        np.save(file, change(np.load(file)))
        assert name in refusal(copy)

    @pytest.mark.parametrize("name", ["ehr_values", "demographics", "regions", "boxes"])
    def test_an_array_of_another_width(self, name: str, copy: Path) -> None:
        file = copy / f"{name}.npy"
        np.save(file, np.load(file)[:, 1:])
        assert f"{name}.npy has shape" in refusal(copy)

    @pytest.mark.parametrize(
        ("table", "column", "value", "says"),
        [
            ("stays", "subject", 99, "stays.parquet, column subject"),
            ("films", "stay", -1, "films.parquet, column stay"),
            ("pairs", "stay", 99, "pairs.parquet, column stay"),
            ("pairs", "film_1", 999, "pairs.parquet, column film_1"),
            ("pairs", "film_2", 999, "pairs.parquet, column film_2"),
            ("stays", "ehr_offset", 10**6, "stays.parquet: an EHR window"),
            ("pairs", "n_hours", 10**6, "pairs.parquet: an EHR window"),
            ("pairs", "ehr_offset", -1, "pairs.parquet: an EHR window"),
            ("subjects", "split", "tset", "split"),
            ("pairs", DISEASES[3], 4, "progression label"),
            ("stays", "mortality", 2, "mortality"),
            ("stays", "length_of_stay", 4, "length_of_stay"),
        ],
    )
    def test_a_table_that_does_not_hold_together(
        self, table: str, column: str, value: Any, says: str, copy: Path
    ) -> None:
        rows = pd.read_parquet(copy / f"{table}.parquet")
        rows.loc[1, column] = value
        rows.to_parquet(copy / f"{table}.parquet")
        assert says in refusal(copy)

    def test_a_pair_whose_films_are_of_two_stays(self, copy: Path) -> None:
        pairs = pd.read_parquet(copy / "pairs.parquet")
        pairs.loc[0, "film_2"] = pairs["film_2"].iloc[-1]
        pairs.to_parquet(copy / "pairs.parquet")
        assert "films of another stay" in refusal(copy)

    def test_a_pair_whose_films_are_in_no_order(self, copy: Path) -> None:
        pairs = pd.read_parquet(copy / "pairs.parquet")
        pairs[["film_1", "film_2"]] = pairs[["film_2", "film_1"]].to_numpy()
        pairs.to_parquet(copy / "pairs.parquet")
        assert "first film is not the older" in refusal(copy)

    def test_an_icu_sample_with_one_early_film(self, copy: Path) -> None:
        stays = pd.read_parquet(copy / "stays.parquet")
        stays["icu_sample"] = True
        stays.to_parquet(copy / "stays.parquet")
        assert "two films in its first 48 h" in refusal(copy)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_an_ehr_value_that_is_no_number(self, value: float, copy: Path) -> None:
        values = np.load(copy / "ehr_values.npy")
        values[5, 5] = value
        np.save(copy / "ehr_values.npy", values)
        assert "ehr_values.npy holds NaN or infinity" in refusal(copy)

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("ehr_mean", lambda values: values[1:]),
            ("ehr_mean", lambda values: [float("nan"), *values[1:]]),
            ("ehr_sd", lambda values: [0.0, *values[1:]]),
            ("demographics_sd", lambda values: [-1.0, *values[1:]]),
            ("demographics_fill", lambda values: values[:3]),
        ],
    )
    def test_a_normalisation_that_cannot_be(
        self, name: str, change: Callable[[list[float]], list[float]], copy: Path
    ) -> None:
        values = json.loads((copy / NORMALISATION).read_text())
        (copy / NORMALISATION).write_text(json.dumps(values | {name: change(values[name])}))
        assert name in refusal(copy)


class TestContentHash:
    def test_place_keys_and_title_do_not_count(self, cohort: Cohort, tmp_path: Path) -> None:
        parts = miniature_parts()
        for table, column in (
            ("subjects", "subject_key"),
            ("stays", "stay_key"),
            ("pairs", "pair_key"),
        ):
            parts["tables"][table][column] = "another"
        parts["identifiers"] = {}
        parts["manifest"]["title"] = "another"
        elsewhere = write_cohort(tmp_path / "else" / "where", **parts)
        assert elsewhere.content_hash == cohort.content_hash
        assert elsewhere.path != cohort.path

    def test_seed_and_size_do(self, cohort: Cohort, tmp_path: Path) -> None:
        hashes = {
            miniature_cohort(tmp_path / "a", seed=1).content_hash,
            miniature_cohort(tmp_path / "b", n_stays=30).content_hash,
            miniature_cohort(tmp_path / "c", region_size=8).content_hash,
            cohort.content_hash,
        }
        assert len(hashes) == 4

    @pytest.mark.parametrize("name", ARRAYS)
    def test_every_array_does(self, name: str, cohort: Cohort, tmp_path: Path) -> None:
        parts = miniature_parts()
        array = parts["arrays"][name]
        place = (1,) * array.ndim
        if name == "findings":
            array[place] = 0 if array[place] else 1
        elif array.dtype == bool:
            array[place] = not array[place]
        else:
            array[place] = 1 + np.nan_to_num(array[place])
        assert write_cohort(tmp_path / "c", **parts).content_hash != cohort.content_hash

    @pytest.mark.parametrize(
        ("table", "column"),
        [
            (table, column)
            for table, columns in TABLE_COLUMNS.items()
            for column in columns
            if not column.endswith("_key") and column not in ("stay", "film_1", "film_2")
        ],
    )
    def test_every_column_does(
        self, table: str, column: str, cohort: Cohort, tmp_path: Path
    ) -> None:
        parts = miniature_parts()
        rows = parts["tables"][table]
        old = rows.loc[2, column]
        others = {"split": "train", "icu_sample": False, "from_gold": True, "ehr_offset": 0}
        if column == "hours":
            rows.loc[2, column] = old + 1e-3
        else:
            rows.loc[2, column] = others[column] if column in others else 1 - min(old, 1)
        assert rows.loc[2, column] != old
        assert write_cohort(tmp_path / "c", **parts).content_hash != cohort.content_hash

    def test_normalisation_does(self, cohort: Cohort, tmp_path: Path) -> None:
        parts = miniature_parts()
        parts["normalisation"].ehr_mean[0] += 1
        assert write_cohort(tmp_path / "c", **parts).content_hash != cohort.content_hash


class TestWriting:
    def test_identifiers_are_in_their_own_file_only(self, cohort: Cohort) -> None:
        secret = str(json.loads((cohort.path / IDENTIFIERS).read_text())["stay_id"][0])
        for file in cohort.path.iterdir():
            assert (secret.encode() in file.read_bytes()) == (file.name == IDENTIFIERS)

    def test_parts_that_do_not_hold_together_leave_the_old_cohort(self, tmp_path: Path) -> None:
        old = miniature_cohort(tmp_path / "cohort")
        parts = miniature_parts(seed=1)
        parts["arrays"]["ehr_values"][0, 0] = np.nan
        with pytest.raises(UserError, match="ehr_values"):
            write_cohort(tmp_path / "cohort", **parts)
        assert [file.name for file in tmp_path.iterdir()] == ["cohort"]
        assert Cohort.open(tmp_path / "cohort").content_hash == old.content_hash

    def test_a_full_disk_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved: list[Path] = []

        def save(file: Path, array: np.ndarray) -> None:
            saved.append(file)
            if len(saved) == 3:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", save)
        with pytest.raises(UserError, match="No space left on device"):
            miniature_cohort(tmp_path / "cohort")
        assert saved[0].parent.parent == tmp_path
        assert not list(tmp_path.iterdir())

    def test_an_interruption_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            miniature_cohort(tmp_path / "cohort")
        assert not list(tmp_path.iterdir())

    def test_a_place_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot write cohort"):
            miniature_cohort(tmp_path / "file" / "cohort")

    def test_a_newer_cohort_replaces_an_older_one(self, tmp_path: Path) -> None:
        old = miniature_cohort(tmp_path / "cohort")
        new = miniature_cohort(tmp_path / "cohort", seed=1)
        assert new.content_hash != old.content_hash
        assert Cohort.open(tmp_path / "cohort").content_hash == new.content_hash
        assert [file.name for file in tmp_path.iterdir()] == ["cohort"]

    def test_same_seed_same_bytes(self, cohort: Cohort, tmp_path: Path) -> None:
        again = miniature_cohort(tmp_path / "again")
        for file in cohort.path.iterdir():
            assert file.read_bytes() == (again.path / file.name).read_bytes(), file.name


def test_keys_depend_on_secret_and_identifier_and_show_neither() -> None:
    keys = {key_of(b"a", "stay", 1), key_of(b"b", "stay", 1), key_of(b"a", "stay", 2)}
    assert len(keys) == 3
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)
    assert key_of(b"a", "stay", 1) == key_of(b"a", "stay", 1)
