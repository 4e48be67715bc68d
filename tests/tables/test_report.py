"""The report of all results: with few runs or none, of simulated and of credentialed cohorts."""

import dataclasses
import re

import pytest
from matplotlib.figure import Figure

from bench.errors import UserError
from bench.store import Store
from tables import curves, report
from tables.definitions import TABLES
from tables.runs import Selection
from tests.tables.mini_store import SEEDS, fill


@pytest.fixture(scope="module", autouse=True)
def quick():
    """A dot instead of every picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "N_RESAMPLES", 20)
        patch.setattr(Figure, "savefig", lambda self, buffer, **how: buffer.write(b"dot"))
        yield


@pytest.fixture(scope="module")
def selection(cohort, tmp_path_factory):
    """Table 2 of made-up runs, nothing else."""
    store = Store(tmp_path_factory.mktemp("report") / "results")
    selection = Selection(cohort, store, "demo", SEEDS)
    fill(selection, TABLES["table2"])
    return selection


@pytest.fixture(scope="module")
def text(selection):
    return report.report(selection, ["table1", "table2"], 50)


def without_pictures(text):
    return re.sub('base64,[^"]+', "", text)


def section_of(text, name):
    """What stands between a heading and the next."""
    return text.split(f'<h2 id="{name}">')[1].split("<h2")[0]


def test_an_empty_store_names_every_table_with_its_command(cohort, tmp_path):
    place = ["--cohort", str(cohort.path), "--results", str(tmp_path / "none")]
    assert report.main(place) == 0
    text = (tmp_path / "none" / "report.html").read_text()
    told = re.sub("<[^>]+>", "", text)
    for name in TABLES:
        assert "Not run" in section_of(text, name)
        assert f"python -m bench.sweep --table {name} --preset demo" in told
    assert "Not measured" in section_of(text, "table9")
    assert "<img" not in text
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["report.html"]


def test_it_loads_nothing_and_labels_every_table_and_picture(text):
    assert not re.search(r"https?:|url\(|@import|<link|src=\"[^d]", without_pictures(text))
    assert "Not run" in section_of(text, "table1")
    assert "SIMULATED DATA" in section_of(text, "table2")
    assert text.count('<p class="warning">SIMULATED DATA') == 1
    assert "paper</button>" not in text
    figures = section_of(text, "figures")
    assert figures.count("<img") == 3  # attention, differences and curves of mortality
    assert "Not drawn" in figures  # no progression run, no history


def test_tables_come_first(text):
    order = re.findall('<h2 id="([^"]+)"', text)
    assert order[:2] == ["table1", "table2"]
    assert re.findall('<a href="#([^"-]+)"', text.split("<nav>")[1].split("</nav>")[0]) == order


def test_every_number_leads_to_its_commands(text):
    table = section_of(text, "table2")
    linked = set(re.findall('href="#([^"]+)"', table))
    assert linked == set(re.findall('<tr id="([^"]+)"', table))
    assert len(linked) == 2 * len(TABLES["table2"].rows)


def test_the_same_records_give_the_same_report(selection, text):
    assert report.report(selection, ["table1", "table2"], 50) == text


def test_a_credentialed_cohort_shows_the_papers_numbers_and_no_patient(selection):
    cohort = selection.cohort
    manifest = cohort.manifest | {"credentialed": True, "simulated": False, "title": "MIMIC-IV"}
    hidden = dataclasses.replace(cohort, manifest=manifest)
    text = report.report(dataclasses.replace(selection, cohort=hidden), ["table2"], 50)
    keys = [*cohort.subjects["subject_key"], *cohort.stays["stay_key"], *cohort.pairs["pair_key"]]
    assert not [key for key in keys if key in without_pictures(text)]
    assert "these are patients" in section_of(text, "cases")
    assert "<img" not in section_of(text, "cases")
    assert "Cells of 1 to 9 patients are hidden" in text
    assert "SIMULATED" not in text
    assert "0.742 ± 0.003" in section_of(text, "table2")


def test_wrong_usage_is_refused(cohort, tmp_path):
    place = ["--cohort", str(cohort.path), "--results", str(tmp_path / "none")]
    with pytest.raises(UserError, match="did you mean 'table2'"):
        report.main(["--tables", "tabel2", *place])
    assert not (tmp_path / "none").exists()
