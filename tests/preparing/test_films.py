"""Film rules one by one: times, views, studies, stays, spacing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.preparing.attrition import Attrition
from bench.preparing.films import read_films, select_films
from bench.preparing.rules import OFFICIAL, STRICT, Rules
from bench.preparing.scene_graphs import SceneGraphs
from bench.preparing.stays import read_stays, select_stays
from tests.preparing.raw_tree import METADATA, RawTree

LOOKS_AHEAD = Rules("looks ahead", film_filters_look_ahead=True)


def selected(tree: RawTree, root: Path, rules: Rules = STRICT) -> pd.DataFrame:
    raw = tree.write(root)
    attrition = Attrition()
    stays = select_stays(read_stays(raw.mimic_iv), STRICT, attrition)
    graphs = SceneGraphs(raw.imagenome)
    return select_films(read_films(raw.mimic_cxr), stays, graphs, raw.mimic_cxr, rules, attrition)


def tree_with_films(*hours: float, los_hours: float = 1000) -> RawTree:
    tree = RawTree()
    tree.add_stay(0, los_hours=los_hours)
    for i, hour in enumerate(hours):
        tree.add_film(0, hour, f"f{i:02}")
    return tree


def kept(tree: RawTree, root: Path, rules: Rules = STRICT) -> list[str]:
    return selected(tree, root, rules)["dicom_id"].tolist()


@pytest.mark.parametrize(
    ("clock", "seconds_of_day"),
    [
        ("213014.53100000002", 21 * 3600 + 30 * 60 + 14),
        ("61907.343", 6 * 3600 + 19 * 60 + 7),
        ("130.5", 90),
        ("0.187", 0),
        ("235959.999", 86399),
    ],
)
def test_study_time_is_truncated_and_padded(clock: str, seconds_of_day: int, tmp_path: Path):
    tree = tree_with_films(30, 60)
    tree.rows[METADATA][0] |= {"StudyDate": "21550111", "StudyTime": clock}
    films = selected(tree, tmp_path)
    intime = pd.Timestamp("2155-01-10 02:13:07")
    taken = pd.Timestamp("2155-01-11") + pd.Timedelta(seconds=seconds_of_day)
    assert films["seconds"].iloc[0] == (taken - intime).total_seconds()


def test_only_ap_films_of_the_stay_with_a_graph(tmp_path: Path):
    tree = tree_with_films(0, 10, 20, 100, los_hours=100)
    tree.add_film(0, 30, "side", ViewPosition="LATERAL")
    tree.add_film(0, 40, "back", ViewPosition="PA")
    tree.add_film(0, 50, "unknown", ViewPosition=None)
    tree.add_film(0, -1, "before")
    tree.add_film(0, 101, "after")
    tree.add_film(1, 60, "another subject")
    tree.add_film(0, 70, "no graph", graph=False)
    assert kept(tree, tmp_path) == ["f00", "f01", "f02", "f03"]


def test_one_film_of_a_study(tmp_path: Path):
    tree = tree_with_films(10, 20)
    study = tree.rows[METADATA][0]["study_id"]
    tree.add_film(0, 10, "a second", study_id=study)
    assert kept(tree, tmp_path / "a") == ["a second", "f01"]  # the smallest dicom_id
    tree.rows[METADATA].append(tree.rows[METADATA].pop(0))
    assert kept(tree, tmp_path / "b", OFFICIAL) == ["f00", "f01"]  # the last in the file


@pytest.mark.parametrize(
    ("hours", "strict", "official"),
    [
        ((0, 6, 12), [0, 12], [0]),  # the gap of 12 counts from what was kept
        ((0, 8, 16), [0, 8, 16], [0, 8, 16]),
        ((0, 7.9, 8.1), [0, 8.1], [0]),
        ((0, 8 - 1 / 3600, 20), [0, 20], [0, 20]),  # a second too early
        ((0, 10, 105.9), [0, 10, 105.9], [0, 10, 105.9]),
        ((0, 10, 106), [0, 10], []),  # a gap of 96 h
        ((0, 10, 110, 120), [0, 10], []),
        ((0, 100, 110), [], []),
        ((0, 6, 100), [], [0, 100]),  # 94 h from the dropped film, 100 h from the kept one
    ],
)
def test_spacing(hours: tuple, strict: list[float], official: list[float], tmp_path: Path):
    tree = tree_with_films(*hours)
    tree.add_stay(1)  # so that something is left
    tree.add_film(1, 10, "x"), tree.add_film(1, 20, "y")
    for rules, expected in ((STRICT, strict), (LOOKS_AHEAD, official)):
        films = selected(tree, tmp_path / rules.name, rules)
        own = films[films["dicom_id"].str.startswith("f")]
        assert (own["seconds"] / 3600).tolist() == expected


def test_a_fifteenth_film_ends_the_list_or_officially_the_stay(tmp_path: Path):
    tree = tree_with_films(*range(0, 150, 10))
    tree.add_stay(1)
    tree.add_film(1, 10, "x"), tree.add_film(1, 20, "y")
    assert len(kept(tree, tmp_path / "a")) == 14 + 2
    assert kept(tree, tmp_path / "b", LOOKS_AHEAD) == ["x", "y"]


def test_what_is_kept_up_to_a_film_does_not_depend_on_later_ones(tmp_path: Path):
    hours = (1, 5, 12, 14, 30, 120, 130, 240, 250)
    whole = kept(tree_with_films(*hours), tmp_path / "whole")
    for n in range(3, len(hours)):
        begun = kept(tree_with_films(*hours[:n]), tmp_path / str(n))
        assert begun == [name for name in whole if int(name[1:]) < n]


def test_films_of_two_stays_of_a_subject_go_to_their_own(tmp_path: Path):
    tree = tree_with_films(10, 20, los_hours=100)
    tree.add_stay(0, n=1)  # 1000 h later
    tree.add_film(0, 1010, "l0"), tree.add_film(0, 1030, "l1")
    films = selected(tree, tmp_path)
    assert films["stay"].tolist() == [0, 0, 1, 1]
    assert (films["seconds"] // 3600).tolist() == [10, 20, 10, 30]
