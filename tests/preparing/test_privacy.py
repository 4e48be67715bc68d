"""Nothing that leaves a credentialed cohort holds an identifier of the raw data."""

from __future__ import annotations

import contextlib
import io
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import prepare, run
from bench.data.cohort import IDENTIFIERS, Cohort
from tables import figures, render, report
from tests.preparing.raw_tree import (
    ADMISSIONS,
    FILM_SHAPE,
    HEART_RATE,
    METADATA,
    URINE,
    RawTree,
    stay_id,
    subject,
)

SUBJECTS = range(2_345_671, 2_345_691)
"""Such that no identifier is a round number, which might be found by chance."""


def raw_tree() -> RawTree:
    """Stays of both outcomes and all lengths, with films whose ids look like MIMIC-CXR's."""
    tree = RawTree()
    for i, k in enumerate(SUBJECTS):
        los_hours = (60, 80, 110, 200)[i % 4]
        tree.add_stay(k, los_hours, anchor_age=50 + i, hospital_expire_flag=i // 4 % 2)
        for hour in range(0, 47, 2):
            tree.chart(k, hour, HEART_RATE, 60 + i + hour)
        tree.chart(k, 3, URINE, 100 + i)
        films = []
        for number, hours in enumerate((5, 20, 40)):
            dicom = f"{k}{number}-7ad1c0de-feedbeef"
            films.append(tree.add_film(k, hours, dicom, study_id=57_654_321 + 10 * i + number))
            tree.images[dicom][: FILM_SHAPE[0] // 2] = 5 * i + number
        tree.compare(films[0], films[1], ("improved", "worsened", "no change")[i % 3])
        tree.compare(films[1], films[2], ("worsened", "no change", "improved")[i % 3])
    return tree


def identifiers(tree: RawTree) -> set[str]:
    """Every subject, admission, stay, study and film of the raw files."""
    films = tree.table(METADATA)
    admissions = tree.table(ADMISSIONS)["hadm_id"]
    found = {*films["dicom_id"], *map(str, films["study_id"]), *map(str, admissions)}
    return found | {str(name(k)) for k in SUBJECTS for name in (subject, stay_id)}


def contents(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file but the cohort's list of identifiers, as text."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != IDENTIFIERS:
            if path.suffix == ".parquet":
                yield path, pd.read_parquet(path).to_csv()
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    yield path, "\n".join(",".join(map(str, a.ravel())) for a in arrays.values())
            else:
                yield path, path.read_bytes().decode("latin-1")


def named_in(text: str, names: set[str]) -> list[str]:
    return sorted(name for name in names if name in text)


@pytest.fixture(scope="module")
def tree() -> RawTree:
    return raw_tree()


@pytest.fixture(scope="module")
def said() -> io.StringIO:
    """What the commands print, on both streams."""
    return io.StringIO()


@pytest.fixture(scope="module")
def cohort(tree: RawTree, said: io.StringIO, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """The tree as a credentialed cohort."""
    raw = tree.write(tmp_path_factory.mktemp("raw"))
    out = tmp_path_factory.mktemp("private") / "cohort"
    words = ["mimic", "--mimic-iv", raw.mimic_iv, "--mimic-cxr", raw.mimic_cxr]
    words += ["--imagenome", raw.imagenome, "--out", out, "--jobs", "1"]
    words += ["--film-size", "32", "--region-size", "16"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert prepare.main([str(word) for word in words]) == 0
    return Cohort.open(out)


def test_a_cohort_its_check_and_its_reports_name_nobody(
    tree: RawTree,
    cohort: Cohort,
    said: io.StringIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    assert cohort.is_credentialed and not cohort.is_simulated
    monkeypatch.setattr("bench.preparing.data_report.draw_distribution", lambda *_: b"")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for number, words in enumerate(([], ["--release"])):
            out = str(tmp_path / f"{number}.html")
            assert prepare.main(["check", str(cohort.path), "--out", out, *words]) in (0, 1)
    names = identifiers(tree)
    assert "paper's Table 4" in said.getvalue() and "every subject" in said.getvalue()
    assert named_in(said.getvalue(), names) == []
    for folder in (cohort.path, tmp_path):
        for path, text in contents(folder):
            assert named_in(text, names) == [], path
    private = cohort.path / IDENTIFIERS
    assert set(map(str, named_in(private.read_text(), names))) > {str(stay_id(SUBJECTS[0]))}
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


@pytest.mark.slow
def test_runs_tables_figures_and_the_report_name_nobody(
    tree: RawTree, cohort: Cohort, tmp_path: Path
):
    said, results = io.StringIO(), tmp_path / "results"
    place = ["--cohort", str(cohort.path), "--results", str(results)]
    small = ["--set", "training.max_epochs=1"]
    selected = [*place, *small, "--seeds", "23"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for task in ("mortality", "length_of_stay", "disease_progression"):
            words = ["--method", "dipro", "--task", task, "--seed", "23"]
            assert run.main([*words, *place, *small]) == 0
        assert render.main(["table2", *selected, "--resamples", "20"]) == 0
        assert figures.main(["figure2b", "learning", "case", *selected, "--show-patients"]) == 0
        assert report.main(["--tables", "table2", *selected, "--resamples", "20"]) == 0
    names = identifiers(tree)
    written = dict(contents(results))
    assert {"report.html", "figure2b.csv", "case.csv", "table2.tex"} <= {p.name for p in written}
    assert {"record.json", "log.txt", "predictions.parquet"} <= {p.name for p in written}
    assert named_in(said.getvalue(), names) == []
    for path, text in written.items():
        assert named_in(text, names) == [], path
