"""Figures from stored maps: attention over regions, and one stay."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bench import run
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, REGIONS, Task
from bench.errors import UserError
from tables import attention, figure2, figures
from tables.attention import by_region
from tables.case import case
from tables.definitions import TABLES
from tables.figure2 import draw_radar, figure2a, figure2b
from tables.pictures import runs_of_dipro
from tables.runs import n_seeds, seeds_in_words
from tests.tables.mini_store import SEEDS, files_of, fill, mini_selection, table2_request


def test_attention_by_hand():
    attention = np.zeros((2, 1, 2, 10))
    attention[0, 0, 0, :2] = [0.3, 0.1]  # other keys hold the rest: shares .75, .25
    attention[0, 0, 1, 2] = 0.2
    attention[1, 0, 0, 2] = 0.9
    attention[1, 0, 1] = 5.0  # padding: must not count
    (share,) = by_region(attention, np.array([[True, True], [True, False]]))
    np.testing.assert_allclose(share, [0.1875, 0.0625, 0.75, 0, 0, 0, 0, 0, 0, 0])


def test_attention_ignores_pairs_and_samples_without_any():
    attention = np.zeros((3, 2, 1, 10))
    attention[0, :, 0, 4] = 0.5
    shares = by_region(attention, np.array([[True], [True], [False]]))
    assert shares[:, 4].tolist() == [1, 1]
    assert shares.sum() == 2


def test_attention_of_each_class_token():
    attention = np.zeros((1, 2, 1, 10))
    attention[0, 0, 0, 3] = attention[0, 1, 0, 7] = 0.5
    shares = by_region(attention, np.ones((1, 1), dtype=bool))
    assert shares.argmax(axis=1).tolist() == [3, 7]


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
    assert header == b"task,output,region,mean,sd,n_seeds,paper"


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


def remove(selection, task, *seeds):
    for seed in seeds:
        files_of(selection, table2_request(selection, "dipro-long", task, seed)).record.unlink()


def test_the_caption_names_the_seeds_that_are_drawn(selection, monkeypatch):
    written = []
    monkeypatch.setattr(figure2, "write_under", lambda figure, text, *width: written.append(text))
    figure2b(selection, "dynamic")
    remove(selection, Task.MORTALITY, *SEEDS[1:])
    remove(selection, Task.LENGTH_OF_STAY, *SEEDS[1:])
    figure2b(selection, "dynamic")
    whole, one = written
    assert "± 1 sd over seeds" in whole and " 3 seeds (23, 29, 66)." in whole
    assert "over seeds" not in one and " 1 seed (23)." in one


def test_seeds_are_named_task_by_task_where_they_differ(selection):
    remove(selection, Task.MORTALITY, 23, 66)
    runs = runs_of_dipro(selection, figure2.ICU_TASKS)
    assert seeds_in_words(runs) == "mortality 1 seed (29), length_of_stay 3 seeds (23, 29, 66)"
    assert n_seeds(runs) == 3
    assert n_seeds(runs[:3]) == 1


def test_a_run_without_the_map_is_refused(selection):
    wanted = table2_request(selection, "dipro-long", Task.MORTALITY, 23)
    files_of(selection, wanted).attention.unlink()
    with pytest.raises(UserError, match="no 'static' attention: it has none"):
        figure2b(selection, "static")


def test_radar_has_a_polygon_per_disease(tmp_path):
    selection = mini_selection(tmp_path)
    fill(selection, TABLES["table13"])
    contents = figure2a(selection, "dynamic")
    assert contents == figure2a(selection, "dynamic")
    assert contents["figure2a.png"].startswith(b"\x89PNG")
    (tmp_path / "f.csv").write_bytes(contents["figure2a.csv"])
    table = pd.read_csv(tmp_path / "f.csv")
    assert list(table["output"].unique()) == list(DISEASES)
    assert table.groupby("output")["mean"].sum().to_numpy() == pytest.approx([1] * 7, abs=1e-5)
    assert "sd" in table


def test_radar_has_markers_on_its_lines_and_labels_off_the_circle(tmp_path):
    selection = mini_selection(tmp_path)
    fill(selection, TABLES["table13"])
    runs = runs_of_dipro(selection, [Task.DISEASE_PROGRESSION])
    figure = draw_radar(attention.summarise(attention.of_runs(runs, "dynamic")), "")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    (legend,) = figure.legends
    angles = np.linspace(0, 2 * np.pi, len(REGIONS), endpoint=False)
    named = {line.get_label(): line for line in axes.lines if line.get_label() in DISEASES}
    assert list(named) == list(DISEASES)
    for line, handle in zip(named.values(), legend.legend_handles, strict=True):
        np.testing.assert_allclose(line.get_xdata()[:-1], angles)
        assert line.get_marker() == handle.get_marker() != "None"
        assert handle.get_linestyle() == "-"
    circle = axes.get_window_extent()
    centre, radius = np.array([circle.x0 + circle.x1, circle.y0 + circle.y1]) / 2, circle.width / 2
    for label in axes.get_xticklabels():
        box = label.get_window_extent(canvas.get_renderer())
        nearest = np.clip(centre, box.min, box.max)
        assert np.linalg.norm(nearest - centre) > radius + 4, label.get_text()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_radar_names_the_table_that_makes_its_runs(tmp_path):
    with pytest.raises(UserError, match=r"bench\.sweep --table table13"):
        figure2a(mini_selection(tmp_path), "dynamic")


def test_a_case_asks_for_one_run(tmp_path):
    with pytest.raises(UserError, match=r"bench\.run --method dipro --task disease_progression"):
        case(mini_selection(tmp_path), "dynamic")


@pytest.fixture(scope="module")
def results(cohort, tmp_path_factory):
    """Two runs of one epoch on the miniature cohort."""
    results = tmp_path_factory.mktemp("case")
    for seed in ("1", "2"):
        arguments = ["--method", "dipro", "--seed", seed, "--set", "training.max_epochs=1"]
        place = ["--cohort", str(cohort.path), "--results", str(results)]
        assert run.main([*arguments, *place]) == 0
    return results


class TestCase:
    def draw(self, cohort, results, *arguments):
        place = ["--cohort", str(cohort.path), "--results", str(results), "--seeds", "1", "2"]
        same = ["--set", "training.max_epochs=1"]
        assert figures.main(["case", *place, *same, *arguments]) == 0
        key = f"_{arguments[1][:8]}" if "--stay" in arguments else ""
        return pd.read_csv(results / "figures" / f"case{key}.csv")

    def test_numbers_are_those_of_the_pair(self, cohort, results):
        table = self.draw(cohort, results)
        parts = table.groupby("part")["value"]
        assert parts.sum()["region attention"] == pytest.approx(1, abs=1e-5)
        assert parts.sum()["hour attention"] == pytest.approx(1, abs=1e-5)
        chances = [parts.get_group(f"p {word}").sum() for word in ("worsened", "improved")]
        assert sum(chances) + parts.get_group("p no change").sum() == pytest.approx(7, abs=1e-4)
        labels = table[table["part"] == "label"].set_index("name")["value"][list(DISEASES)]
        test = cohort.split_of_stays()[cohort.pairs["stay"]] == "test"
        known = cohort.pairs.loc[test, list(DISEASES)].to_numpy()
        assert (known == labels.to_numpy()).all(axis=1).any()

    def test_a_stay_is_chosen_by_its_key(self, cohort, results):
        test = np.flatnonzero(cohort.split_of_stays() == "test")
        seen = set()
        for stay in test[:2]:
            key = cohort.stays["stay_key"].iloc[stay]
            seen.add(self.draw(cohort, results, "--stay", key[:10]).to_csv())
        assert len(seen) == 2

    def test_another_stay_is_refused(self, cohort, results):
        training = np.flatnonzero(cohort.split_of_stays() == "train")[0]
        key = cohort.stays["stay_key"].iloc[training]
        with pytest.raises(UserError, match=f"--stay {key}: no test stay"):
            self.draw(cohort, results, "--stay", key)

    def test_patients_are_drawn_on_demand_only(self, cohort, results, tmp_path):
        private = tmp_path / "private"
        shutil.copytree(cohort.path, private)
        manifest = json.loads((private / "manifest.json").read_text())
        (private / "manifest.json").write_text(json.dumps(manifest | {"credentialed": True}))
        hidden = Cohort.open(private)
        with pytest.raises(UserError, match="--show-patients"):
            self.draw(hidden, results)
        self.draw(hidden, results, "--show-patients")
