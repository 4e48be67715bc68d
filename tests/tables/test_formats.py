"""Printed tables: emphasis, escapes, and where the paper's numbers may stand."""

import pandas as pd
import pytest

from tables.build import build
from tables.formats import ansi, as_latex, as_markdown, as_text, files, latex, markdown, plain
from tables.grid import Cell
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
