"""Ranks over cohorts: known ranks, when they are tested, and what the diagram joins."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.data.vocabulary import Task
from bench.errors import UserError
from tables import ranks
from tables.definitions import TABLES
from tables.ranks import (
    Comparison,
    Ranks,
    compare,
    contents,
    diagram,
    draw,
    one_column_a_task,
    rank,
)
from tables.runs import Selection
from tests.tables.mini_store import MINI, files_of, fill, mini_selection, table2_request


def selections(root, n: int, table=MINI) -> list[Selection]:
    """Cohorts with other seeds, so other made-up predictions, in one store."""
    base = mini_selection(root)
    found = []
    for k in range(n):
        named = {"title": f"simulated cohort, mini, seed {k}", "content_hash": f"{k:016x}"}
        cohort = replace(base.cohort, manifest={**base.cohort.manifest, **named})
        found.append(replace(base, cohort=cohort, seeds=(100 + k, 200 + k)))
        fill(found[-1], table)
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return selections(tmp_path_factory.mktemp("store"), 3)


def made_up(values: np.ndarray) -> Ranks:
    """Ranks of methods (columns) on blocks (lines)."""
    frame = pd.DataFrame(values).melt(ignore_index=False).reset_index()
    frame.columns = ["block", "title", "mean"]
    frame["rank"] = frame.groupby("block")["mean"].rank(ascending=False)
    return Ranks([], frame, [])


def test_a_block_is_a_cohort_and_a_task(three):
    found = rank(MINI, three)
    assert found.values.shape == (6, 4)
    assert set(found.frame["metric"]) == {"auprc", "accuracy"}
    by_hand = found.frame.groupby("block")["mean"].rank(ascending=False)
    np.testing.assert_array_equal(found.frame["rank"], by_hand)
    assert found.mean_ranks.index[0] == "DiPro"
    assert found.mean_ranks.sum() == pytest.approx(1 + 2 + 3 + 4)
    assert not found.left_out


def test_one_metric_a_task_without_hidden_ehr():
    for table in TABLES.values():
        columns = one_column_a_task(table).columns
        assert [column.task for column in columns] == table.tasks
        assert not any(column.drop_ehr for column in columns)


def test_fewer_than_five_blocks_carry_no_test(three):
    found = rank(MINI, three[:2])
    with pytest.raises(UserError, match="4 blocks"):
        compare(found)
    text = contents(found, None, "4 blocks")["table2_ranks.txt"].decode()
    assert "NO TEST" in text
    assert "SIMULATED DATA" in text
    assert "No test and no critical-difference diagram: 4 blocks" in text


def test_an_incomplete_row_is_not_ranked(tmp_path):
    chosen = selections(tmp_path, 2)
    wanted = table2_request(chosen[1], "medfuse-long", Task.MORTALITY, 101)
    files_of(chosen[1], wanted).record.unlink()
    found = rank(MINI, chosen)
    assert "medfuse-long" not in set(found.frame["row"])
    assert len(found.left_out) == 1
    assert "MedFuse, long (cohort 2, Mortality: 1 of 2 runs" in found.left_out[0]
    assert found.frame["rank"].max() == 3


def test_the_same_cohort_twice_is_refused(three):
    with pytest.raises(UserError, match="need independent cohorts"):
        rank(MINI, [three[0], three[0]])


def test_known_mean_ranks_and_difference():
    values = np.tile([0.9, 0.8, 0.7, 0.6], (6, 1))
    values[0, :2] = 0.85  # a tie
    tested = compare(made_up(values))
    assert tested.mean_ranks.tolist() == pytest.approx([6.5 / 6, 11.5 / 6, 3, 4])
    # Demsar 2006, table 5a: q = 2.569 for 4 methods at 0.05.
    assert tested.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 6)), rel=1e-3)
    assert tested.p < 0.01


@pytest.mark.parametrize(
    ("mean_ranks", "p", "alike"),
    [
        ([1, 2, 3, 4], 0.01, [(0, 1), (1, 2), (2, 3)]),
        ([1, 1.5, 3.5, 4], 0.01, [(0, 1), (2, 3)]),
        ([1, 1.2, 1.4, 4], 0.01, [(0, 2)]),
        ([1, 3, 5, 7], 0.01, []),
        ([1, 3, 5, 7], 0.5, [(0, 3)]),
    ],
)
def test_bars_join_what_is_not_apart(mean_ranks, p, alike):
    named = pd.Series(mean_ranks, index=list("abcd"), dtype=float)
    tested = Comparison(named, p, critical_difference=1.1)
    assert tested.alike == alike
    (axes,) = draw(tested, "title").axes
    bars = [line for line in axes.lines if line.get_linewidth() > 3]
    assert len(bars) == len(alike)


def test_diagram_is_written_as_picture_and_numbers(three):
    found = rank(MINI, three)
    files = diagram(found, compare(found))
    assert files["table2_ranks.png"].startswith(b"\x89PNG")
    assert files["table2_ranks.csv"].startswith(b"title,mean_rank,critical_difference,friedman_p")


@pytest.fixture
def place(cohort, tmp_path):
    """Arguments that name two cohorts on disk and a store with all their runs."""
    folders = []
    for k in range(2):
        folder = tmp_path / f"cohort{k}"
        shutil.copytree(cohort.path, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        named = {"title": f"cohort {k}", "content_hash": f"{k:016x}"}
        (folder / "manifest.json").write_text(json.dumps(manifest | named))
        folders.append(str(folder))
    results = tmp_path / "results"
    base = mini_selection(results)
    for folder in folders:
        opened = type(cohort).open(folder)
        fill(replace(base, cohort=opened, seeds=(23, 29)))
    options = ["--results", str(results), "--preset", "demo", "--seeds", "23", "29"]
    return ["table2", "--cohorts", *folders, *options]


def test_command_writes_ranks_without_diagram(place, tmp_path, capsys):
    assert ranks.main(place) == 0
    assert "no critical-difference diagram: 4 blocks" in capsys.readouterr().out.replace("\n", " ")
    written = sorted(path.name for path in (tmp_path / "results" / "tables").iterdir())
    assert written == ["table2_ranks.csv", "table2_ranks.txt"]
    assert not (tmp_path / "results" / "figures").exists()


def test_an_unknown_table_is_refused(place):
    with pytest.raises(UserError, match="did you mean 'table2'"):
        ranks.main(["tabel2", *place[1:]])
