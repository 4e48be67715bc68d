"""Differences to the reference row: their numbers, and the forest plot."""

import io

import numpy as np
import pandas as pd
import pytest

from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from tables.build import build
from tables.definitions import DIPRO, TABLES, Row
from tables.differences import differences, forest, labels, resampled_difference
from tests.tables.mini_store import (
    MINI,
    SEEDS,
    files_of,
    fill,
    golden_built,
    mini_selection,
    table2_request,
)

MEDFUSE = Row("medfuse", Cxr.LONG)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    selection = mini_selection(tmp_path_factory.mktemp("store"))
    fill(selection)
    return build(MINI, selection, n_resamples=300)


def test_numbers_are_those_of_the_table(built):
    table = differences(built)
    assert len(table) == 3 * 4  # three rows are compared in four columns
    assert (table["n_comparisons"] == 3).all()
    cells = built.frame.set_index(["row", "task", "metric"])
    for cell in table.to_dict("records"):
        same = cells.loc[(cell["row"], cell["task"], cell["metric"])]
        assert cell["difference"] == same["difference"]
        assert cell["p_adjusted"] == same["p_adjusted"]
        assert cell["ci_low"] < cell["difference"] < cell["ci_high"]


def test_interval_and_error_are_of_the_paired_difference(built):
    scores = built.scores[0]
    drawn = resampled_difference(MEDFUSE, DIPRO, scores)
    by_hand = np.mean(
        [
            scores.resampled[scores.place[MEDFUSE, seed]]
            - scores.resampled[scores.place[DIPRO, seed]]
            for seed in SEEDS
        ],
        axis=0,
    )
    np.testing.assert_allclose(drawn, by_hand)
    np.testing.assert_allclose(resampled_difference(DIPRO, MEDFUSE, scores), -drawn)
    cell = differences(built).set_index(["row", "metric"]).loc[("medfuse-long", scores.metric)]
    assert cell["standard_error"] == pytest.approx(by_hand.std(ddof=1))
    assert cell["ci_low"] == pytest.approx(np.quantile(by_hand, 0.025))


def test_only_seeds_of_both_rows_count(tmp_path):
    selection = mini_selection(tmp_path)
    fill(selection)
    wanted = table2_request(selection, "medfuse-long", Task.MORTALITY, SEEDS[0])
    files_of(selection, wanted).record.unlink()
    scores = build(MINI, selection, n_resamples=50).scores[0]
    own, other = scores.places(MEDFUSE), scores.places(DIPRO)
    by_hand = np.mean(
        [scores.resampled[own[s]] - scores.resampled[other[s]] for s in SEEDS[1:]], axis=0
    )
    np.testing.assert_allclose(resampled_difference(MEDFUSE, DIPRO, scores), by_hand)


def test_no_interval_where_there_is_no_p(built):
    scores = built.scores[0]
    unsure = type(scores)(
        scores.runs, scores.metric, scores.place, scores.values, scores.resampled, 0.2
    )
    assert len(resampled_difference(MEDFUSE, DIPRO, unsure)) == 0
    absent = Row("utde", Cxr.LONG)
    assert len(resampled_difference(absent, DIPRO, scores)) == 0


def test_rows_without_runs_stay_in_the_family(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = differences(golden_built())
    assert (table["n_comparisons"] == 3).all()
    assert table["ci_low"].notna().all()


def test_forest_is_written_as_picture_and_numbers(tmp_path):
    selection = mini_selection(tmp_path)
    fill(selection)
    contents = forest(selection)
    assert sorted(contents) == [f"forest_table2.{kind}" for kind in ("csv", "pdf", "png")]
    assert contents["forest_table2.png"].startswith(b"\x89PNG")
    table = pd.read_csv(io.BytesIO(contents["forest_table2.csv"]))
    assert set(table["row"]) == {row.name for row in TABLES["table2"].rows} - {DIPRO.name}
    done = table[table["row"].isin([row.name for row in MINI.rows])]
    assert done["difference"].notna().all()
    assert table["difference"].isna().sum() == len(table) - len(done)


def test_forest_without_runs_or_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"bench\.sweep --table table2"):
        forest(mini_selection(tmp_path))
    with pytest.raises(UserError, match="did you mean 'table2'"):
        forest(mini_selection(tmp_path), table="tabel2")


def test_labels_are_apart():
    for table in TABLES.values():
        named = labels(table)
        assert len(set(named.values())) == len(table.rows)
    assert labels(TABLES["table2"])["medfuse-last"] == "MedFuse, last"
    assert labels(TABLES["table2"])["dipro-long"] == "DiPro"
