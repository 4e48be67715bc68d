"""Figure 2b: attention over regions from stored maps."""

import numpy as np
import pandas as pd
import pytest

from bench.data.vocabulary import REGIONS, Task
from bench.errors import UserError
from tables.attention import by_region
from tables.figures import figure2b
from tests.tables.mini_store import files_of, fill, mini_selection, table2_request


def test_attention_by_hand():
    attention = np.zeros((2, 1, 2, 10))
    attention[0, 0, 0, :2] = [0.3, 0.1]  # other keys hold the rest: shares .75, .25
    attention[0, 0, 1, 2] = 0.2
    attention[1, 0, 0, 2] = 0.9
    attention[1, 0, 1] = 5.0  # padding: must not count
    share = by_region(attention, np.array([[True, True], [True, False]]))
    np.testing.assert_allclose(share, [0.1875, 0.0625, 0.75, 0, 0, 0, 0, 0, 0, 0])


def test_attention_ignores_pairs_and_samples_without_any():
    attention = np.zeros((3, 2, 1, 10))
    attention[0, :, 0, 4] = 0.5
    share = by_region(attention, np.array([[True], [True], [False]]))
    assert share[4] == 1
    assert share.sum() == 1


@pytest.fixture
def selection(tmp_path):
    selection = mini_selection(tmp_path)
    fill(selection)
    return selection


def test_figure_is_written_as_picture_and_numbers(selection, tmp_path):
    contents = figure2b(selection, "dynamic")
    assert contents["figure2b.png"].startswith(b"\x89PNG")
    assert contents["figure2b.pdf"].startswith(b"%PDF")
    assert contents == figure2b(selection, "dynamic")
    (tmp_path / "f.csv").write_bytes(contents["figure2b.csv"])
    table = pd.read_csv(tmp_path / "f.csv")
    assert list(table["region"]) == [*REGIONS, *REGIONS]
    assert table.groupby("task")["mean"].sum().to_numpy() == pytest.approx([1, 1], abs=1e-5)
    assert (table["n_seeds"] == 3).all()
    assert "paper" not in table
    assert figure2b(selection, "static")["figure2b.csv"] != contents["figure2b.csv"]


def test_the_paper_stands_beside_real_data_only(tmp_path):
    selection = mini_selection(tmp_path, simulated=False)
    fill(selection)
    header = figure2b(selection, "dynamic")["figure2b.csv"].splitlines()[0]
    assert header == b"task,region,mean,sd,n_seeds,paper"


def test_a_figure_of_one_run(tmp_path):
    selection = mini_selection(tmp_path)
    with pytest.raises(UserError, match=r"bench\.sweep --table table2"):
        figure2b(selection, "dynamic")
    other = mini_selection(tmp_path / "full")
    fill(other)
    for seed in (23, 29, 66):
        wanted = table2_request(other, "dipro-long", Task.LENGTH_OF_STAY, seed)
        files_of(other, wanted).record.unlink()
    text = figure2b(other, "dynamic")["figure2b.csv"].decode()
    assert "mortality" in text
    assert "length_of_stay" not in text


def test_a_run_without_the_map_is_refused(selection):
    wanted = table2_request(selection, "dipro-long", Task.MORTALITY, 23)
    files_of(selection, wanted).attention.unlink()
    with pytest.raises(UserError, match="no 'static' attention: it has none"):
        figure2b(selection, "static")
