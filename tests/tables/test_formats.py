"""Printed tables: emphasis, escapes, and where the paper's numbers may stand."""

import numpy as np
import pandas as pd
import pytest

from tables.build import build
from tables.definitions import TABLES
from tables.formats import (
    ansi,
    as_latex,
    as_markdown,
    as_text,
    as_wide,
    files,
    latex,
    markdown,
    plain,
)
from tables.grid import Cell
from tables.published import contradiction, published
from tests.tables.mini_store import MINI, fill, mini_selection


def built(root, simulated):
    selection = mini_selection(root, simulated)
    fill(selection)
    return build(MINI, selection, n_resamples=200)


def test_a_cell_in_every_format():
    cell = Cell("0.512 ± 0.034", "**", " (2 of 3)", is_best=True, is_best_baseline=True)
    assert plain(cell) == "0.512 ± 0.034** (2 of 3)"
    assert ansi(cell) == "\x1b[1;4m0.512 ± 0.034\x1b[0m** (2 of 3)"
    assert markdown(cell) == r"**<u>0.512 ± 0.034</u>**\*\* (2 of 3)"
    assert latex(cell) == r"\textbf{\underline{0.512 $\pm$ 0.034}}$^{**}$ (2 of 3)"


def test_the_paper_stands_beside_real_data_only(tmp_path):
    real = built(tmp_path / "real", simulated=False)
    for text in (as_text(real), as_markdown(real), as_latex(real)):
        assert "0.742" in text
        assert "SIMULATED" not in text
    assert real.frame["paper_mean"].notna().all()

    simulated = built(tmp_path / "simulated", simulated=True)
    for name, content in files(simulated).items():
        assert b"0.742" not in content, name
    assert simulated.frame["paper_mean"].isna().all()


def test_the_same_records_give_the_same_bytes(tmp_path):
    once, again = (built(tmp_path / name, simulated=True) for name in ("a", "b"))
    assert files(once) == files(again)


def test_csv_files_can_be_read_back(tmp_path):
    for name, content in files(built(tmp_path, simulated=False)).items():
        (tmp_path / name).write_bytes(content)
    long = pd.read_csv(tmp_path / "table2.csv")
    wide = pd.read_csv(tmp_path / "table2_wide.csv")
    assert len(long) == 4 * 4
    assert list(wide["row"]) == [row.name for row in MINI.rows]
    value = long.query("row == 'dipro-long' and metric == 'kappa'")["mean"].item()
    assert wide.set_index("row").loc["dipro-long", "length_of_stay kappa mean"] == value


def test_latex_is_balanced_and_escaped(tmp_path):
    text = as_latex(built(tmp_path, simulated=True))
    rows = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert [row.count(" & ") for row in rows] == [5] * 4
    assert all(row.endswith(r"\\") for row in rows)
    assert text.count("{") == text.count("}")
    assert "length_of_stay" not in text
    assert "±" not in text


@pytest.mark.parametrize("style", [plain, ansi])
def test_the_best_is_bold_and_the_best_baseline_underlined(tmp_path, style):
    text = as_text(built(tmp_path, simulated=True), style)
    assert ("\x1b[1m" in text) == ("\x1b[4m" in text) == (style is ansi)


def test_on_real_data_each_number_is_set_against_the_papers(tmp_path):
    real = built(tmp_path, simulated=False)
    frame = real.frame
    difference = frame["mean"] - frame["paper_mean"]
    pd.testing.assert_series_equal(frame["paper_difference"], difference, check_names=False)
    inside = frame["paper_mean"].between(frame["ci_low"], frame["ci_high"])
    assert set(frame["paper_in_interval"]) == {"yes", "no"}
    assert ((frame["paper_in_interval"] == "yes") == inside).all()
    first = frame.iloc[0]
    where = "in" if first["paper_in_interval"] == "yes" else "out"
    shown = f"{first['paper_difference']:+.3f} {where}".replace("-", "−")
    assert shown in as_text(real)
    assert "Printed in the paper" in as_latex(real)
    assert "Table 2 without films is the EHR Transformer" in as_markdown(real)


@pytest.mark.parametrize("simulated", [True, False])
def test_where_the_paper_contradicts_itself_is_a_footnote_on_real_data(simulated, tmp_path):
    selection = mini_selection(tmp_path, simulated)
    table = TABLES["table1"]
    fill(selection, table)
    table1 = build(table, selection, n_resamples=50)
    (row,) = [line for line in as_text(table1).splitlines() if line.startswith("MedFuse")]
    assert ("0.530 ± 0.030 [a]" in row) is not simulated
    assert ("[a] the paper's Table 10 prints 0.609 ± 0.050" in as_text(table1)) is not simulated
    assert ("$\\pm$ 0.030$^{a}$" in as_latex(table1)) is not simulated


def test_every_number_that_the_paper_prints_differently_has_its_footnote():
    """Cells of one configuration in two of the paper's tables."""
    seen = {}
    for table in TABLES.values():
        for row in table.rows:
            for column in table.columns:
                cell = row, column.task, column.metric, column.drop_ehr
                number = published(table.paper_table, *cell)
                if not np.isnan(number).any():
                    key = row.method, row.ablate, row.films(column.task), row.ehr, *cell[1:]
                    note = contradiction(table.paper_table, *cell[:3])
                    seen.setdefault(key, []).append((number, note))
    differing = [found for found in seen.values() if len({number for number, _ in found}) > 1]
    assert len(differing) == 1
    for found in differing:
        for place, (_, note) in enumerate(found):
            mean, sd = found[1 - place][0]
            assert f"{mean:.3f} ± {sd:.3f}" in note


def test_the_wide_csv_keeps_apart_the_shares_of_hidden_ehr(tmp_path):
    selection = mini_selection(tmp_path)
    fill(selection, TABLES["table19"])
    table19 = build(TABLES["table19"], selection, n_resamples=20)
    wide = as_wide(table19).filter(like="mean")
    assert list(wide.columns[[0, -1]]) == [
        "mortality auprc without 75% of the EHR mean",
        "mortality auprc mean",
    ]
    assert wide.notna().all(axis=None)
