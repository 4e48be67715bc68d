"""What is not known at a prediction time never changes what is stored for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.data.cohort import MANIFEST, Cohort
from bench.data.vocabulary import DEMOGRAPHICS, Split
from tests.preparing.raw_tree import (
    ADMISSIONS,
    HEART_RATE,
    INTIME,
    PATIENTS,
    RawTree,
    plain_tree,
    prepare,
)

WEIGHT = 224639
K = 3


def bytes_of(cohort: Cohort) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in cohort.path.iterdir() if p.name != MANIFEST}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return prepare(plain_tree(), tmp_path_factory.mktemp("original"))


def later_vitals(tree: RawTree) -> None:
    tree.chart(K, 60.5, HEART_RATE, 200)  # after its last film, at 60 h
    tree.chart(K, 100, WEIGHT, 150)


def vitals_outside(tree: RawTree) -> None:
    tree.chart(K, -30, HEART_RATE, 200)
    tree.chart(K, 130, HEART_RATE, 200)


def other_stays_vitals(tree: RawTree) -> None:
    tree.chart(40, 10, HEART_RATE, 200)


def discharge_information(tree: RawTree) -> None:
    tree.rows[ADMISSIONS][K] |= {
        "discharge_location": "HOSPICE",
        "dischtime": INTIME + pd.Timedelta(hours=400),
    }
    tree.rows[PATIENTS][K]["dod"] = "2155-02-20"


@pytest.mark.parametrize(
    "change",
    [later_vitals, vitals_outside, other_stays_vitals, discharge_information],
    ids=lambda change: change.__name__,
)
def test_the_cohort_does_not_change_by_a_byte(
    change: Callable[[RawTree], None], original: Cohort, tmp_path: Path
):
    tree = plain_tree()
    change(tree)
    assert bytes_of(prepare(tree, tmp_path)) == bytes_of(original)


def test_films_before_the_stay_or_after_a_long_gap_change_nothing(tmp_path: Path):
    tree = plain_tree()
    tree.rows["icu/icustays"][K]["outtime"] = INTIME + pd.Timedelta(hours=200)
    without = prepare(tree, tmp_path / "without")
    tree.add_film(K, 160, "later")  # 100 h after its last film
    tree.add_film(K, -5, "before")
    assert bytes_of(prepare(tree, tmp_path / "with")) == bytes_of(without)


@pytest.mark.parametrize("years", [28, -28])
def test_shifting_all_dates_changes_nothing(years: int, original: Cohort, tmp_path: Path):
    # 28 years of the calendar between two centuries are 10 227 days.
    shift = pd.Timedelta(days=10_227 * years // 28)
    shifted = prepare(plain_tree(shift=shift), tmp_path)
    assert bytes_of(shifted) == bytes_of(original)


def windows_of(cohort: Cohort, table: str) -> list[np.ndarray]:
    rows = getattr(cohort, table)
    values = cohort.arrays["ehr_values"]
    return [values[o : o + n] for o, n in zip(rows["ehr_offset"], rows["n_hours"], strict=True)]


@pytest.mark.parametrize(
    ("hours", "stay_rows_from", "changed_pairs"),
    [(20.1, 20, [1]), (30, 30, [1]), (50, None, [1]), (19.9, 19, [0, 1]), (-5, 0, [])],
)
def test_an_event_changes_later_rows_only(
    hours: float,
    stay_rows_from: int | None,
    changed_pairs: list[int],
    original: Cohort,
    tmp_path: Path,
):
    tree = plain_tree()
    tree.chart(K, hours, 226730, 199)  # a height: nothing else is charted of it
    changed = prepare(tree, tmp_path)
    for i, (new, old) in enumerate(
        zip(windows_of(changed, "stays"), windows_of(original, "stays"), strict=True)
    ):
        differs = np.flatnonzero((new != old).any(axis=1))
        if i != K or stay_rows_from is None:
            assert differs.size == 0
        else:
            assert differs.tolist() == list(range(stay_rows_from, 48))
    pairs = zip(windows_of(changed, "pairs"), windows_of(original, "pairs"), strict=True)
    differing = [i for i, (new, old) in enumerate(pairs) if (new != old).any()]
    assert differing == [2 * K + i for i in (changed_pairs if hours > 0 else [0, 1])]


def test_measures_charted_after_the_first_pair_are_unknown(original: Cohort, tmp_path: Path):
    weight = DEMOGRAPHICS.index("weight")
    for name, hours, expected in (("late", 20.1, np.nan), ("early", 20, 90)):
        tree = plain_tree()
        tree.chart(K, hours, WEIGHT, 90)
        found = prepare(tree, tmp_path / name).arrays["demographics"]
        assert np.array_equal(found[K, weight], expected, equal_nan=True)
    assert np.isnan(original.arrays["demographics"][:, weight]).all()


def test_normalisation_ignores_everything_but_training_subjects(original: Cohort, tmp_path: Path):
    tree = plain_tree()
    training = original.subjects["split"] == Split.TRAIN
    for k in np.flatnonzero(~training):
        tree.chart(int(k), 10, HEART_RATE, 300)
        tree.chart(int(k), 2, WEIGHT, 200)
        tree.rows[PATIENTS][k] |= {"anchor_age": 88, "gender": "M"}
    changed = prepare(tree, tmp_path)
    assert changed.normalisation.to_json() == original.normalisation.to_json()
    assert changed.content_hash != original.content_hash
    for k in np.flatnonzero(training)[:1]:
        tree.chart(int(k), 10, HEART_RATE, 300)
    moved = prepare(tree, tmp_path / "training")
    assert moved.normalisation.to_json() != original.normalisation.to_json()


def test_the_label_of_a_later_pair_changes_no_earlier_one(original: Cohort, tmp_path: Path):
    tree = plain_tree()
    tree.graphs[f"c{K}"]["relationships"].clear()
    tree.compare(f"b{K}", f"c{K}", "no change", ("disease|yes|pneumonia",))
    changed = prepare(tree, tmp_path)
    differs = (changed.pairs != original.pairs).any(axis=1)
    assert np.flatnonzero(differs).tolist() == [2 * K + 1]
    assert changed.manifest["counts"] == original.manifest["counts"]
