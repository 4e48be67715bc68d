"""Each check holds for a good cohort and fails for one that is broken in just that way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import prepare
from bench.data.cohort import Cohort, Normalisation, write_cohort
from bench.data.miniature import miniature_parts
from bench.data.vocabulary import DEMOGRAPHICS, DISEASES, EHR_VARIABLES, Split
from bench.preparing.checking import Check, check_cohort
from bench.preparing.ehr_rows import hourly_events
from bench.preparing.normalising import fit_normalisation

Parts = dict[str, Any]
N_STAYS = 240
"""Enough for every class of every disease in every split."""

HEART_RATE = EHR_VARIABLES.index("Heart Rate")


def fitted(cohort: Cohort, stays: np.ndarray) -> Normalisation:
    """Statistics over some stays, as preparing fits them; bool [stays]."""
    nothing = np.zeros(len(EHR_VARIABLES))
    return fit_normalisation(hourly_events(cohort), stays, nothing, cohort.arrays["demographics"])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Parts of a cohort for which every check holds."""
    parts = miniature_parts(N_STAYS, film_size=8, region_size=4)
    cohort = write_cohort(tmp_path_factory.mktemp("good") / "cohort", **parts)
    return parts | {"normalisation": fitted(cohort, cohort.split_of_stays() == Split.TRAIN)}


def copied(parts: Parts) -> Parts:
    """Parts that may be changed."""
    return parts | {
        "tables": {name: table.copy() for name, table in parts["tables"].items()},
        "arrays": {name: array.copy() for name, array in parts["arrays"].items()},
        "manifest": dict(parts["manifest"]),
    }


def verdicts(parts: Parts, path: Path) -> dict[str, Check]:
    """Every check of the cohort of these parts."""
    return {check.name: check for check in check_cohort(write_cohort(path, **parts))}


def stays_of(parts: Parts, split: str) -> np.ndarray:
    """Rows of the ICU samples of a split."""
    stays = parts["tables"]["stays"]
    in_split = parts["tables"]["subjects"]["split"].eq(split).to_numpy()[stays["subject"]]
    return np.flatnonzero(in_split & stays["icu_sample"])


def subject_twice(parts: Parts) -> None:
    subjects = parts["tables"]["subjects"]
    train, test = (subjects.index[subjects["split"] == s][0] for s in ("train", "test"))
    subjects.loc[test, "subject_key"] = subjects.loc[train, "subject_key"]


def stay_twice(parts: Parts) -> None:
    train, test = (stays_of(parts, split)[0] for split in ("train", "test"))
    stays = parts["tables"]["stays"]
    stays.loc[test, "stay_key"] = stays.loc[train, "stay_key"]


def film_twice(parts: Parts) -> None:
    films = parts["tables"]["films"]["stay"].to_numpy()
    train, test = (np.flatnonzero(films == stays_of(parts, s)[0])[0] for s in ("train", "test"))
    parts["arrays"]["films"][test] = parts["arrays"]["films"][train]


def ehr_twice(parts: Parts) -> None:
    offsets = parts["tables"]["stays"]["ehr_offset"]
    train, test = (offsets[stays_of(parts, split)[0]] for split in ("train", "validation"))
    for name in ("ehr_values", "ehr_observed"):
        parts["arrays"][name][test : test + 48] = parts["arrays"][name][train : train + 48]


def row_after_horizon(parts: Parts) -> None:
    parts["tables"]["stays"].loc[stays_of(parts, "train")[0], "n_hours"] = 49


def pair_ends_late(parts: Parts) -> None:
    parts["tables"]["pairs"].loc[0, "n_hours"] += 1


def filled_from_later(parts: Parts) -> None:
    """The mean of both neighbours in one hour without observation."""
    values, observed = (parts["arrays"][name] for name in ("ehr_values", "ehr_observed"))
    start = parts["tables"]["stays"]["ehr_offset"][stays_of(parts, "train")[0]]
    charted = observed[start : start + 48, HEART_RATE]
    row = start + np.flatnonzero(~charted[1:-1] & charted[2:])[0] + 1
    values[row, HEART_RATE] = (values[row - 1, HEART_RATE] + values[row + 1, HEART_RATE]) / 2


def class_missing(parts: Parts) -> None:
    stays = parts["tables"]["stays"]
    validation = stays.index.isin(stays_of(parts, "validation"))
    stays.loc[validation & (stays["length_of_stay"] == 3), "length_of_stay"] = 2


BROKEN: dict[str, Callable[[Parts], None]] = {
    "every subject in one split": subject_twice,
    "every stay's ICU sample and pairs in one split": stay_twice,
    "no film of the same bytes in two splits": film_twice,
    "no EHR window of the same bytes in two splits": ehr_twice,
    "no EHR row of an ICU sample at or after 48 h": row_after_horizon,
    "no EHR row of a pair after the hour of its second film": pair_ends_late,
    "EHR hours without observation repeat the hour before": filled_from_later,
    "every class in every split": class_missing,
}
STATISTICS = {
    "demographic statistics are those of training subjects": "demographics",
    "EHR statistics are those of training subjects": "ehr",
}
TOUCHED_TOO: dict[Callable[[Parts], None], set[str]] = {
    # The added hour belongs to the next sample, whose values it does not repeat.
    row_after_horizon: {"EHR hours without observation repeat the hour before"},
    pair_ends_late: {"EHR hours without observation repeat the hour before"},
}


def test_every_check_holds_for_a_good_cohort(good: Parts, tmp_path: Path) -> None:
    checks = verdicts(good, tmp_path / "cohort")
    assert [check for check in checks.values() if not check.holds] == []
    assert set(checks) == set(BROKEN) | set(STATISTICS)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_cohort_fails_just_that_check(good: Parts, tmp_path: Path, name: str) -> None:
    parts = copied(good)
    BROKEN[name](parts)
    checks = verdicts(parts, tmp_path / "cohort")
    failed = {check.name for check in checks.values() if check.holds is False}
    assert failed - TOUCHED_TOO.get(BROKEN[name], set()) == {name}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_everyone_fail(good: Parts, tmp_path: Path, name: str) -> None:
    cohort = write_cohort(tmp_path / "first", **good)
    everyone = fitted(cohort, np.ones(len(cohort.stays), dtype=bool))
    kept = {f: v for f, v in vars(good["normalisation"]).items() if STATISTICS[name] not in f}
    parts = good | {"normalisation": Normalisation(**{**vars(everyone), **kept})}
    checks = verdicts(parts, tmp_path / "cohort")
    assert [check.name for check in checks.values() if check.holds is False] == [name]
    assert "everyone" in checks[name].detail or "all subjects" in checks[name].detail


def test_a_millionth_of_a_demographic_statistic_is_told(good: Parts, tmp_path: Path) -> None:
    age = DEMOGRAPHICS.index("age")
    for share, holds in ((1e-8, True), (1e-5, False)):
        mean = good["normalisation"].demographics_mean.copy()
        mean[age] *= 1 + share
        changed = vars(good["normalisation"]) | {"demographics_mean": mean}
        checks = verdicts(good | {"normalisation": Normalisation(**changed)}, tmp_path / "cohort")
        assert checks["demographic statistics are those of training subjects"].holds is holds


def test_wrong_ehr_statistics_name_the_variable(good: Parts, tmp_path: Path) -> None:
    mean = good["normalisation"].ehr_mean.copy()
    mean[HEART_RATE] /= 60
    changed = vars(good["normalisation"]) | {"ehr_mean": mean}
    checks = verdicts(good | {"normalisation": Normalisation(**changed)}, tmp_path / "cohort")
    check = checks["EHR statistics are those of training subjects"]
    assert check.holds is False and "Heart Rate" in check.detail


def test_statistics_cannot_be_told_where_everyone_is_training(good: Parts, tmp_path: Path) -> None:
    parts = copied(good)
    parts["tables"]["subjects"]["split"] = str(Split.TRAIN)
    cohort = write_cohort(tmp_path / "first", **parts)
    parts["normalisation"] = fitted(cohort, np.ones(len(cohort.stays), dtype=bool))
    checks = verdicts(parts, tmp_path / "cohort")
    assert [checks[name].holds for name in STATISTICS] == [None, None]


def test_missing_classes_are_named(good: Parts, tmp_path: Path) -> None:
    parts = copied(good)
    pairs = parts["tables"]["pairs"]
    pairs.loc[pairs[DISEASES[0]] == 0, DISEASES[0]] = 1
    check = verdicts(parts, tmp_path / "cohort")["every class in every split"]
    assert f"{Split.TEST} {DISEASES[0]} worsened" in check.detail


def test_a_cohort_without_labels_misses_no_class(good: Parts, tmp_path: Path) -> None:
    parts = copied(good)
    class_missing(parts)
    parts["manifest"]["labels"] = "none"
    assert verdicts(parts, tmp_path / "cohort")["every class in every split"].holds is None


def test_details_name_rows_not_identifiers(good: Parts, tmp_path: Path) -> None:
    parts = copied(good)
    subject_twice(parts)
    check = verdicts(parts, tmp_path / "cohort")["every subject in one split"]
    assert check.detail.startswith("subjects.parquet, row ")
    assert not any(key in check.detail for key in parts["tables"]["subjects"]["subject_key"])


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (
            {"normalised_by": "official scripts"},
            "normalised by the official scripts, with statistics over all stays",
        ),
        (
            {"official_behaviour": ["normalise_beyond_cohort"]},
            "fitted on all adult stays, with films or without",
        ),
    ],
)
def test_statistics_of_more_than_the_cohort_are_said_to_be(
    good: Parts, tmp_path: Path, manifest: dict[str, Any], told: str
) -> None:
    parts = copied(good)
    parts["manifest"] |= manifest
    checks = verdicts(parts, tmp_path / "cohort")
    assert {checks[name].detail for name in STATISTICS} == {told}
    assert {check.name for check in checks.values() if check.holds is False} == set(STATISTICS)


def test_a_variable_charted_before_admission_only_is_left_out(good: Parts, tmp_path: Path) -> None:
    """Its statistics come from events that no window shows as observed."""
    parts = copied(good)
    height = EHR_VARIABLES.index("Height")
    parts["arrays"]["ehr_observed"][:, height] = False
    sd = good["normalisation"].ehr_sd.copy()
    sd[height] = 30.0
    parts["normalisation"] = Normalisation(**vars(good["normalisation"]) | {"ehr_sd": sd})
    check = verdicts(parts, tmp_path / "a")["EHR statistics are those of training subjects"]
    assert check.holds and "left out, under 30 training hours: Height" in check.detail
    mean = good["normalisation"].ehr_mean.copy()
    mean[HEART_RATE] /= 60
    changed = vars(parts["normalisation"]) | {"ehr_mean": mean}
    parts["normalisation"] = Normalisation(**changed)
    check = verdicts(parts, tmp_path / "b")["EHR statistics are those of training subjects"]
    assert check.holds is False and "hours: Heart Rate; left out" in check.detail


@pytest.mark.parametrize(("fault", "status"), [(class_missing, 0), (subject_twice, 1)])
def test_a_class_that_a_split_lacks_is_only_a_warning(
    good: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[Parts], None],
    status: int,
) -> None:
    parts = copied(good)
    fault(parts)
    write_cohort(tmp_path / "cohort", **parts)
    monkeypatch.setattr("bench.preparing.data_report.write_report", lambda *_: None)
    assert prepare.main(["check", str(tmp_path / "cohort")]) == status
    said = capsys.readouterr().out
    assert ("warns        every class in every split" in said) is (fault is class_missing)
    assert ("fails" in said) is (fault is subject_twice)


def test_the_open_demo_prepared_by_strict_rules_passes(open_demo: Cohort) -> None:
    checks = {check.name: check for check in check_cohort(open_demo)}
    assert {check.verdict for check in checks.values()} <= {"holds", "warns"}
    statistics = checks["EHR statistics are those of training subjects"]
    assert "left out" in statistics.detail and "Height" in statistics.detail
