"""The releases that are read: the same cohort of each, and each is told and recorded."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.data.cohort import Cohort
from bench.preparing.mimic import Options, prepare_mimic
from bench.preparing.releases import ICU_STAYS_OF_RELEASE, releases
from bench.preparing.rules import STRICT
from bench.preparing.scene_graphs import SceneGraphs
from bench.preparing.selection import RawFolders
from tests.preparing.raw_tree import SIMULATED, SIZES, plain_tree

N_SUBJECTS = 4
ADMISSIONS, EVENTS = "hosp/admissions.csv", ("icu/chartevents.csv", "icu/outputevents.csv")


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def as_2_2(raw: RawFolders) -> None:
    """As the tree is written."""


def before_2_2(raw: RawFolders) -> None:
    """Releases 2.0 and 2.1: no provider and no caregiver."""
    edit(raw.mimic_iv / ADMISSIONS, lambda table: table.drop(columns="admit_provider_id"))
    for name in EVENTS:
        edit(raw.mimic_iv / name, lambda table: table.drop(columns="caregiver_id"))


def since_3_0(raw: RawFolders) -> None:
    """Named languages in other letters; columns elsewhere, and one that nobody knows."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        named = table.assign(language=table["language"].replace({"ENGLISH": "English"}))
        return named[named.columns[::-1]].assign(of_a_later_release="x")

    edit(raw.mimic_iv / ADMISSIONS, change)


def films_2_1_0(raw: RawFolders) -> None:
    """More files; the tables keep 2.0.0 in their names."""
    labels = raw.mimic_cxr / "mimic-cxr-2.1.0-test-set-labeled.csv"
    labels.write_text("study_id,Airspace Opacity\n50000001,1.0\n")
    (raw.mimic_cxr / "IMAGE_FILENAMES").write_text("files/p10/p10000001/s50000001/a0.jpg\n")


def graphs_of(raw: RawFolders) -> Path:
    return raw.imagenome / "silver_dataset" / "scene_graph"


def graphs_deeper(raw: RawFolders) -> None:
    graphs_of(raw).rename(raw.imagenome / "silver_dataset" / "moved")
    graphs_of(raw).mkdir()
    (raw.imagenome / "silver_dataset" / "moved").rename(graphs_of(raw) / "scene_graph")


def graphs_zipped(raw: RawFolders, inside: str = "scene_graph") -> None:
    with zipfile.ZipFile(graphs_of(raw).with_name("scene_graph.zip"), "w") as archive:
        for path in sorted(graphs_of(raw).iterdir()):
            archive.write(path, f"{inside}/{path.name}")
    shutil.rmtree(graphs_of(raw))


def graphs_zipped_deeper(raw: RawFolders) -> None:
    graphs_zipped(raw, "scene_graph/scene_graph")


def prepared(raw: RawFolders, out: Path) -> Cohort:
    options = Options(STRICT, SIZES)
    return prepare_mimic(raw, SIMULATED, out, options, say=lambda line: None)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("usual")
    return prepared(plain_tree(N_SUBJECTS).write(root / "raw"), root / "out")


@pytest.mark.parametrize(
    ("change", "data_set", "release"),
    [
        (as_2_2, "mimic_iv", "2.2 or later by its columns, not the whole release"),
        (before_2_2, "mimic_iv", "2.0 or 2.1 by its columns, not the whole release"),
        (since_3_0, "mimic_iv", "2.2 or later by its columns, not the whole release"),
        (as_2_2, "mimic_cxr_jpg", "2.0.0"),
        (films_2_1_0, "mimic_cxr_jpg", "2.1.0"),
        (as_2_2, "chest_imagenome", "1.0.0, graphs in a folder"),
        (graphs_deeper, "chest_imagenome", "1.0.0, graphs in a folder in a folder"),
        (graphs_zipped, "chest_imagenome", "1.0.0, graphs in their zip file"),
        (graphs_zipped_deeper, "chest_imagenome", "1.0.0, graphs in their zip file"),
    ],
)
def test_each_variant_gives_the_same_cohort_and_is_recorded(
    change: Callable[[RawFolders], None],
    data_set: str,
    release: str,
    usual: Cohort,
    tmp_path: Path,
):
    raw = plain_tree(N_SUBJECTS).write(tmp_path / "raw")
    change(raw)
    cohort = prepared(raw, tmp_path / "out")
    assert cohort.manifest["releases"][data_set] == release
    assert cohort.content_hash == usual.content_hash


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("n_icu_stays", "release"), list(ICU_STAYS_OF_RELEASE.items()))
def test_a_whole_release_is_told_by_its_stays(
    n_icu_stays: int, release: str, packed: bool, tmp_path: Path
):
    raw = plain_tree(N_SUBJECTS).write(tmp_path, packed=packed)
    found = releases(raw, SceneGraphs(raw.imagenome), n_icu_stays)
    assert found["mimic_iv"] == release
    part = releases(raw, SceneGraphs(raw.imagenome), n_icu_stays - 1)
    assert part["mimic_iv"].startswith("2.2 or later by its columns")


def test_another_language_is_not_english(usual: Cohort, tmp_path: Path):
    tree = plain_tree(N_SUBJECTS)
    tree.rows["hosp/admissions"][1]["language"] = "Spanish"
    cohort = prepared(tree.write(tmp_path / "raw"), tmp_path / "out")
    tree.rows["hosp/admissions"][1]["language"] = "?"
    unnamed = prepared(tree.write(tmp_path / "again"), tmp_path / "second")
    assert cohort.content_hash == unnamed.content_hash != usual.content_hash
