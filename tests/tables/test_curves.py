"""Curves: against scikit-learn, under resampling, and as pictures."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from bench.data.vocabulary import SELECTION_METRIC, Cxr, Task
from bench.errors import UserError
from bench.metrics import Classification
from tables import curves
from tables.curves import (
    FALSE_POSITIVE_RATES,
    RECALLS,
    died,
    learning,
    learning_curves,
    mean_curve,
    mortality_curves,
    precision_recall,
    predicted_risk,
    risk_groups,
    roc,
    row_curves,
)
from tables.definitions import DIPRO, TABLES, Row, Setting, requests
from tables.runs import find_runs
from tests.tables.mini_store import MINI, SEEDS, fill, mini_selection, write_run


def predictions(n: int = 200, seed: int = 0, decimals: int = 8) -> Classification:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(int)
    score = np.round(1 / (1 + np.exp(-rng.normal(labels, 1))), decimals)
    return Classification(labels, score > 0.5, score[:, None], np.arange(n) // 2, n // 2)


def repeated(part: Classification, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of one resample, samples written out."""
    times = counts[part.subject, 0].astype(int)
    return np.repeat(part.labels, times), np.repeat(part.scores[:, 0], times)


@pytest.fixture(params=[8, 1], ids=["no ties", "ties"])
def part(request):
    return predictions(decimals=request.param)


@pytest.fixture(params=["once", "resampled"])
def counts(request, part):
    if request.param == "once":
        return np.ones((part.n_subjects, 1))
    drawn = np.random.default_rng(1).integers(0, part.n_subjects, part.n_subjects)
    return np.bincount(drawn, minlength=part.n_subjects).astype(float)[:, None]


def test_roc_is_scikit_learns(part, counts):
    false, true, _ = sk.roc_curve(*repeated(part, counts), drop_intermediate=False)
    expected = np.interp(FALSE_POSITIVE_RATES, false, true)
    np.testing.assert_allclose(roc(part, counts)[:, 0], expected, atol=1e-12)


def test_precision_is_scikit_learns(part, counts):
    precision, recall, _ = sk.precision_recall_curve(*repeated(part, counts))
    # Highest threshold that reaches a recall: scikit-learn's thresholds rise.
    expected = [precision[np.flatnonzero(recall >= r - 1e-12)[-1]] for r in RECALLS]
    np.testing.assert_allclose(precision_recall(part, counts)[:, 0], expected, atol=1e-12)


def test_shares_of_risk_groups(part, counts):
    labels, _ = repeated(part, counts)
    group = np.repeat(risk_groups(part), counts[part.subject, 0].astype(int))
    shares = pd.Series(labels).groupby(group).mean().reindex(range(10))
    np.testing.assert_allclose(died(part, counts)[:, 0], shares)
    risk = predicted_risk(part)
    assert (np.diff(risk[np.isfinite(risk)]) > 0).all()


def test_risk_groups_are_equal_and_keep_ties_together():
    assert np.bincount(risk_groups(predictions(200))).tolist() == [20] * 10
    assert np.bincount(risk_groups(predictions(100))).tolist() == [20] * 5
    tied = predictions(200, decimals=1)
    groups = pd.Series(risk_groups(tied)).groupby(tied.scores[:, 0])
    assert (groups.min() == groups.max()).all()


def test_without_both_classes_there_is_no_curve():
    part = predictions()
    of_subject = np.bincount(part.subject, weights=part.labels)
    only_survivors = (of_subject == 0).astype(float)[:, None]
    assert np.isnan(roc(part, only_survivors)).all()
    assert np.isnan(precision_recall(part, only_survivors)).all()


def test_bands_hold_the_mean_of_the_seeds(monkeypatch):
    monkeypatch.setattr(curves, "N_RESAMPLES", 200)
    first = predictions(seed=0)
    other = predictions(seed=0, decimals=1)
    found = row_curves([first, other])
    once = np.ones((first.n_subjects, 1))
    expected = (roc(first, once) + roc(other, once))[:, 0] / 2
    of_roc = found[found["curve"] == "roc"]
    np.testing.assert_allclose(of_roc["mean"], expected)
    assert (of_roc["low"] <= of_roc["mean"] + 1e-9).all()
    assert (of_roc["high"] >= of_roc["mean"] - 1e-9).mean() > 0.95
    pd.testing.assert_frame_equal(found, row_curves([first, other]))


def test_mean_of_histories_of_different_length():
    found = mean_curve([pd.Series([1.0, 2.0, 3.0]), pd.Series([3.0, 4.0])])
    assert found["x"].tolist() == [1, 2, 3]
    assert found["mean"].tolist() == [2, 3, 3]
    assert found["n_seeds"].tolist() == [2, 2, 1]
    assert (found["high"] - found["mean"]).tolist()[:2] == pytest.approx([2**0.5] * 2)
    assert np.isnan(found["high"].iloc[2])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store whose runs have histories; a seed of a row stops after two epochs, others three."""
    selection = mini_selection(tmp_path_factory.mktemp("store"))
    for wanted in requests(MINI, selection.preset, SEEDS):
        metric = SELECTION_METRIC[wanted.task]
        n_epochs = 2 if wanted.seed == SEEDS[0] else 3
        history = [
            {"train_task": 1 / (e + 1), "validation_loss": 1.0, metric: 0.1 * e + wanted.seed / 1e3}
            for e in range(n_epochs)
        ]
        write_run(selection, wanted, history=history)
    return selection


def of_rows(selection, setting: Setting):
    wanted = [w for w in requests(MINI, selection.preset, SEEDS) if w.task == setting.task]
    runs = find_runs(selection, wanted)
    return {row: runs[3 * k : 3 * k + 3] for k, row in enumerate(MINI.rows)}


def test_learning_curves_by_hand(trained):
    setting = Setting(Task.MORTALITY)
    found = learning_curves(setting, of_rows(trained, setting)).set_index(["row", "curve"])
    loss = found.loc[(DIPRO.name, "Mortality: training loss")]
    assert loss["mean"].tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    score = found.loc[(DIPRO.name, "Mortality: validation AUPRC")]
    assert score["mean"].iloc[0] == pytest.approx(np.mean(SEEDS) / 1e3)
    assert score["n_seeds"].tolist() == [3, 3, 2]


def test_learning_is_written_as_picture_and_numbers(trained, monkeypatch):
    monkeypatch.setitem(TABLES, "table2", MINI)
    contents = learning(trained)
    assert sorted(contents) == [f"learning_table2.{kind}" for kind in ("csv", "pdf", "png")]
    assert contents["learning_table2.png"].startswith(b"\x89PNG")
    table = pd.read_csv(io.BytesIO(contents["learning_table2.csv"]))
    assert set(table["row"]) == {row.name for row in MINI.rows}
    assert table["curve"].nunique() == 4


def test_learning_of_one_run(tmp_path):
    selection = mini_selection(tmp_path)
    wanted = next(w for w in requests(MINI, selection.preset, SEEDS) if w.task == Task.MORTALITY)
    write_run(selection, wanted, history=[{"train_task": 0.7, "validation_loss": 0.6}])
    table = pd.read_csv(io.BytesIO(learning(selection)["learning_table2.csv"]))
    assert table["curve"].tolist() == ["Mortality: training loss", "Mortality: validation loss"]
    assert table["mean"].tolist() == [0.7, 0.6]


@pytest.mark.parametrize("seeds", [SEEDS, SEEDS[:1]])
def test_the_legend_shows_a_band_where_there_is_one(trained, seeds, monkeypatch):
    monkeypatch.setitem(TABLES, "table2", MINI)
    drawn = []
    monkeypatch.setattr(curves, "picture_files", lambda name, figure, frame: drawn.append(figure))
    learning(dataclasses.replace(trained, seeds=seeds))
    (legend,) = drawn[0].legends
    assert ("band" in [text.get_text() for text in legend.texts]) == (len(seeds) > 1)
    assert min(text.get_fontsize() for text in legend.texts) >= 8


def test_an_odd_number_of_rows_in_two_halves_keeps_every_panel():
    five = (*MINI.rows, Row("utde", Cxr.LONG))
    frame = pd.DataFrame(
        {"row": row.name, "curve": curve, "x": x, "mean": 0.5, "low": 0.4, "high": 0.6}
        for row in five
        for curve in ("a", "b")
        for x in (1, 2)
    )
    panels = [curves.Panel("a", "epoch", "a"), curves.Panel("b", "epoch", "b")]
    figure = curves.draw(frame.assign(n_seeds=3), panels, dataclasses.replace(MINI, rows=five), "")
    assert [axes.get_ylabel() for axes in figure.axes].count("a") == len(five)
    assert [axes.get_ylabel() for axes in figure.axes].count("b") == len(five)
    assert len(figure.axes) == 2 * len(five)


def test_mortality_curves_are_written_as_picture_and_numbers(trained, monkeypatch):
    monkeypatch.setitem(TABLES, "table2", MINI)
    monkeypatch.setattr(curves, "N_RESAMPLES", 50)
    contents = mortality_curves(trained)
    assert contents["mortality_curves_table2.pdf"].startswith(b"%PDF")
    table = pd.read_csv(io.BytesIO(contents["mortality_curves_table2.csv"]))
    assert table.groupby("curve")["row"].nunique().to_dict() == {
        "calibration": 4,
        "precision_recall": 4,
        "roc": 4,
    }
    assert table["mean"].between(0, 1).all()


def test_figures_that_cannot_be_drawn_are_refused(tmp_path):
    selection = mini_selection(tmp_path)
    with pytest.raises(UserError, match=r"bench\.sweep --table table2"):
        mortality_curves(selection)
    with pytest.raises(UserError, match="not about mortality"):
        mortality_curves(selection, table="table13")
    fill(selection)  # runs without a history, as those that only test weights
    with pytest.raises(UserError, match=r"bench\.sweep --table table2"):
        learning(selection)
