"""The report of a cohort: one file, nothing linked, nobody named, small cells hidden on demand."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.data.cohort import Cohort, write_cohort
from bench.data.miniature import miniature_parts
from bench.data.vocabulary import DEMOGRAPHICS, DISEASES, EHR_VARIABLES
from bench.errors import Parser, UserError
from bench.preparing import describing
from bench.preparing.checking import Check, check_cohort
from bench.preparing.data_report import add_arguments, run_check, summary, write_report
from bench.preparing.report_pictures import Limits

N_STAYS = 60
ONE_FAILS = [Check("a & b", True, "fine"), Check("c", False, "rows"), Check("d", None, "unsure")]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags that are open, texts, pictures and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[Image.Image] = []
        self.addresses: list[str] = []
        self.cells: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep pictures and addresses; remember what must be closed."""
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action"):
                kind, _, data = str(value).partition("base64,")
                if kind == "data:image/png;":
                    self.images.append(Image.open(io.BytesIO(base64.b64decode(data))))
                else:
                    self.addresses.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        """A tag closes the one opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep texts, those of table cells apart."""
        self.text += data
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def cohort_of(path: Path, **manifest: Any) -> Cohort:
    """A miniature cohort with a changed manifest."""
    parts = miniature_parts(N_STAYS)
    return write_cohort(path / "cohort", **parts | {"manifest": parts["manifest"] | manifest})


def report(cohort: Cohort, path: Path, **options: bool) -> tuple[str, Page]:
    """The report's text and what a browser sees in it."""
    write_report(cohort, path / "report.html", ONE_FAILS, **options)
    text = (path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    return text, page


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, str, Page]:
    """A simulated cohort and its report."""
    path = tmp_path_factory.mktemp("plain")
    cohort = cohort_of(path, title="a < b")
    return cohort, *report(cohort, path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dot instead of every picture."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, format="png")
    for name in ("draw_distribution", "draw_film", "draw_timeline"):
        monkeypatch.setattr(f"bench.preparing.data_report.{name}", lambda *_: buffer.getvalue())


def test_it_is_one_html_file_without_links(plain: tuple[Cohort, str, Page]) -> None:
    cohort, text, page = plain
    assert page.open == [] and text.startswith("<!DOCTYPE html>")
    assert page.addresses == []
    without_pictures = re.sub('base64,[^"]+', "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link", without_pictures)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert 'name="viewport"' in text
    assert [file.name for file in cohort.path.parent.glob("*.html*")] == ["report.html"]


def test_it_says_what_the_data_is(plain: tuple[Cohort, str, Page]) -> None:
    cohort, _, page = plain
    for said in ("a < b", "SIMULATED DATA", "not credentialed", cohort.content_hash):
        assert said in page.text
    assert summary(cohort, ONE_FAILS).splitlines()[0].startswith("a < b (SIMULATED DATA")


def test_it_names_the_releases(tmp_path: Path, quick: None) -> None:
    cohort = cohort_of(tmp_path, releases={"MIMIC-IV": "2.2", "Chest ImaGenome": "1.0.0"})
    assert "releases: MIMIC-IV 2.2, Chest ImaGenome 1.0.0" in report(cohort, tmp_path)[1].text
    assert "releases:" not in report(cohort_of(tmp_path / "old"), tmp_path)[1].text


def test_it_tells_what_was_mended_and_what_is_lacking(tmp_path: Path, quick: None) -> None:
    told = {
        "oddities": {"charted values clipped": 12, "relations left out": 4, "never": 0},
        "not_reproduced": ["a flag <of> weight"],
        "not_known": ["views of films"],
    }
    cohort = cohort_of(tmp_path, **told)
    _, page = report(cohort, tmp_path)
    section = page.text.split("Mended and left out")[1].split("Labels")[0]
    assert "Not done: a flag <of> weight" in section and "Not known: views of films" in section
    assert "never" not in section
    rows = dict(zip(page.cells, page.cells[1:], strict=False))
    assert (rows["charted values clipped"], rows["relations left out"]) == ("12", "4")
    _, page = report(cohort, tmp_path, release=True)
    rows = dict(zip(page.cells, page.cells[1:], strict=False))
    assert (rows["charted values clipped"], rows["relations left out"]) == ("12", "–")
    assert "Nothing that was counted." in report(cohort_of(tmp_path / "b"), tmp_path)[1].text


def test_shares_of_unknown_demographics(tmp_path: Path, quick: None) -> None:
    parts = miniature_parts(N_STAYS)
    values = parts["arrays"]["demographics"]
    race = [i for i, name in enumerate(DEMOGRAPHICS) if name.startswith("race")]
    values[:, race] = np.eye(len(race))[0]
    values[:, DEMOGRAPHICS.index("height")] = 170
    values[:15, DEMOGRAPHICS.index("height")] = np.nan
    values[:3, race] = np.nan
    values[3:6, race] = np.eye(len(race))[4]
    cohort = write_cohort(tmp_path / "cohort", **parts)
    _, page = report(cohort, tmp_path)
    rows = dict(zip(page.cells, page.cells[1:], strict=False))
    assert rows["height"] == f"{100 * 15 / len(values):.1f}"
    assert rows["race"] == rows["race charted as unknown"] == f"{100 * 3 / len(values):.1f}"
    hidden = describing.unknown_demographics(cohort, 10)["unknown"]
    assert hidden.isna()[["height", "race", "race charted as unknown"]].tolist() == [0, 1, 1]


def test_scores_are_not_called_clipped_and_inr_is_named(tmp_path: Path, quick: None) -> None:
    """The lowest and the highest of a score are usual values."""
    parts = miniature_parts(N_STAYS)
    for name, high in (("Glascow coma scale verbal response", 5), ("Heart Rate", 390)):
        parts["arrays"]["ehr_values"][:, EHR_VARIABLES.index(name)] = high
    for items, inr in (("official", True), ("extended", False)):
        parts["manifest"]["ehr_items"] = items
        _, page = report(write_cohort(tmp_path / items, **parts), tmp_path)
        assert "clipped to 0 to 390 bpm; 100.0% at a limit" in page.text
        assert "scores 1 to 5" in page.text and "scores 1 to 5;" not in page.text
        assert "clipped to 1 to" not in page.text
        assert ("Prothrombin time (INR)" in page.cells) is inr
        assert f"clipped to 0 to 150 {'ratio' if inr else 's'}" in page.text
        assert "s (range) vs ratio" not in page.text


def test_normalised_values_have_no_clipping_limits(
    tmp_path: Path, plain: tuple[Cohort, str, Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, usual = plain
    assert "clipped to" in usual.text and "Red: clipping limits" in usual.text
    limits: list[Limits | None] = []

    def note(*of: Any) -> bytes:
        limits.append(of[2])
        return b""

    for name in ("draw_film", "draw_timeline"):
        monkeypatch.setattr(f"bench.preparing.data_report.{name}", lambda *_: b"")
    monkeypatch.setattr("bench.preparing.data_report.draw_distribution", note)
    cohort = cohort_of(tmp_path, normalised_by="official scripts")
    write_report(cohort, tmp_path / "report.html", ONE_FAILS)
    text = (tmp_path / "report.html").read_text()
    assert len(limits) == 2 + len(EHR_VARIABLES) and set(limits) == {None}
    assert "clipped to" not in text and "Red" not in text
    assert "Normalised by the official scripts" in text


def test_it_tells_every_check(plain: tuple[Cohort, str, Page]) -> None:
    _, _, page = plain
    for line in ("holds: a & b", "fails: c", "cannot tell: d"):
        assert line in page.text


def test_it_draws_every_variable_some_films_and_a_stay(plain: tuple[Cohort, str, Page]) -> None:
    cohort, _, page = plain
    n_films = cohort.films["stay"].value_counts().max()
    assert len(page.images) == 2 + len(EHR_VARIABLES) + 6 + n_films + 1
    assert all(len(np.unique(np.asarray(image.convert("L")))) > 2 for image in page.images)
    assert set(EHR_VARIABLES) <= set(page.cells)


def test_pictures_of_single_patients_are_of_training_subjects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, drawn = cohort_of(tmp_path), []

    def note(cohort: Cohort, film: int, with_boxes: bool) -> bytes:
        drawn.append(film)
        return b""

    monkeypatch.setattr("bench.preparing.data_report.draw_film", note)
    monkeypatch.setattr("bench.preparing.data_report.draw_timeline", lambda cohort, stay: b"")
    write_report(cohort, tmp_path / "report.html", ONE_FAILS)
    assert set(cohort.split_of_stays()[cohort.films["stay"].iloc[drawn]]) == {"train"}


def test_patients_are_drawn_only_where_asked_for(tmp_path: Path, quick: None) -> None:
    cohort = cohort_of(tmp_path, credentialed=True)
    _, page = report(cohort, tmp_path)
    assert len(page.images) == 2 + len(EHR_VARIABLES) and "--show-patients" in page.text
    _, page = report(cohort, tmp_path, show_patients=True)
    assert len(page.images) > 2 + len(EHR_VARIABLES) and "DO NOT PASS ON" in page.text
    with pytest.raises(UserError, match="--release"):
        report(cohort, tmp_path, show_patients=True, release=True)


def test_nobody_is_named(plain: tuple[Cohort, str, Page]) -> None:
    cohort, text, _ = plain
    keys = [*cohort.subjects["subject_key"], *cohort.stays["stay_key"], *cohort.pairs["pair_key"]]
    raw = [str(30_000_000 + stay) for stay in range(N_STAYS)]
    assert not [name for name in [*keys, *raw, str(cohort.path.parent)] if name in text]


@pytest.mark.parametrize(
    ("simulated", "credentialed"), [(True, False), (True, True), (False, False), (False, True)]
)
def test_the_papers_counts_stand_beside_the_papers_data_only(
    tmp_path: Path, quick: None, simulated: bool, credentialed: bool
) -> None:
    cohort = cohort_of(tmp_path, simulated=simulated, credentialed=credentialed)
    _, page = report(cohort, tmp_path)
    shown = [n for n in (3982, 1889, 2025, 465, 793, 1367) if f"paper {n}" in page.text]
    assert len(shown) == (6 if credentialed and not simulated else 0)
    assert ("REAL DATA" in page.text) is not simulated


def test_release_hides_small_cells_and_details(tmp_path: Path, quick: None) -> None:
    cohort = cohort_of(tmp_path)
    _, page = report(cohort, tmp_path, release=True)
    died = describing.outcome(cohort, "mortality", describing.MORTALITY, 0)["died"]
    assert 0 < died["test"] < describing.MIN_PATIENTS
    counts = [cell for cell in page.cells if re.fullmatch(r"[1-9]", cell)]
    assert counts == [] and "–" in page.cells
    assert "rows" not in page.text.split("Origin")[0]
    assert "rows" not in summary(cohort, ONE_FAILS, release=True)


def test_a_hidden_cell_cannot_be_found_by_subtraction() -> None:
    row = np.repeat(["a", "b"], [60, 40])
    column = np.array(["x"] * 30 + ["y"] * 25 + ["z"] * 5 + ["x"] * 20 + ["y"] * 20)
    shown = describing.tally(row, column, np.arange(100), ["a", "b"], ["x", "y", "z"], 10)
    found = describing.with_total(shown).fillna(-1).to_numpy().tolist()
    assert found == [[30, -1, -1], [20, 20, 0], [50, -1, -1]]


def test_cells_are_hidden_by_patients_not_samples() -> None:
    row, column = np.full(50, "a"), np.full(50, "x")
    shown = describing.tally(row, column, np.arange(50) % 9, ["a"], ["x"], 10)
    assert shown.isna().all(axis=None)
    assert describing.tally(row, column, np.arange(50) % 10, ["a"], ["x"], 10).loc["a", "x"] == 50
    counts = describing.histogram(np.zeros(50), np.arange(50) % 9, np.array([-1.0, 1.0]), 10)
    assert counts.tolist() == [0]


def test_steps_of_attrition_that_drop_few_are_hidden(tmp_path: Path, quick: None) -> None:
    left = [(100, 80), (97, 80), (70, 60)]
    attrition = [
        {"rule": f"rule {i}", "n_stays": stays, "n_films": None, "n_subjects": subjects}
        for i, (stays, subjects) in enumerate(left)
    ]
    cohort = cohort_of(tmp_path, attrition=attrition)
    assert describing.attrition(cohort)["n_stays"].tolist() == [100, 97, 70]
    assert describing.attrition(cohort, 10)["n_stays"].isna().tolist() == [True, False, False]
    assert "rule 1" in report(cohort, tmp_path)[1].cells


def test_counts_are_those_of_the_tables(cohort: Cohort) -> None:
    sizes = describing.sizes(cohort)
    assert sizes.to_numpy()[-1, :4].tolist() == list(cohort.manifest["counts"].values())
    in_all = describing.progression_in_all(cohort)
    assert in_all.to_numpy().tolist() == [
        [(cohort.pairs[disease] == k).sum() for k in range(3)] for disease in DISEASES
    ]
    lengths = describing.outcome(cohort, "length_of_stay", describing.LENGTHS_OF_STAY, 0)
    icu = cohort.stays[cohort.stays["icu_sample"]]
    assert lengths.to_numpy()[-1].tolist() == [(icu["length_of_stay"] == k).sum() for k in range(4)]
    assert describing.films_per_stay(cohort).sum().sum() == len(icu)


def test_sampling_of_known_windows(tmp_path: Path) -> None:
    """One stay of two never observed; twice a day in the other."""
    parts = miniature_parts(N_STAYS)
    stays, observed = parts["tables"]["stays"], parts["arrays"]["ehr_observed"]
    stays["n_hours"] = np.where(stays.index < 2, stays["n_hours"], 0)
    observed[:, 0] = False
    observed[stays["ehr_offset"][0] + np.array([0, 5, 24, 47]), 0] = True
    found = describing.sampling(write_cohort(tmp_path / "cohort", **parts)).iloc[0]
    assert found["never_observed"] == 0.5 and found["per_day"] == 1.0


def test_the_papers_tables_have_our_names() -> None:
    splits, lengths = ["test", "train", "validation"], [*describing.LENGTHS_OF_STAY]
    assert sorted(describing.paper_counts(4).index) == splits
    assert describing.paper_counts(4).loc["train", "labelled pairs"] == 3982
    assert sorted(describing.paper_counts(5).index) == sorted(DISEASES)
    assert sorted(describing.paper_counts(5).columns) == sorted(describing.CLASSES)
    six = describing.paper_counts(6)
    assert six["died"].tolist() == [465]
    assert six[lengths].to_numpy().tolist() == [[793, 641, 687, 599]]
    assert describing.paper_counts(7).loc["test", 3] == 120


def test_a_cohort_without_ehr_and_labels(tmp_path: Path, quick: None) -> None:
    parts = miniature_parts(N_STAYS)
    parts["arrays"]["ehr_observed"][:] = False
    parts["tables"]["stays"]["los_days"] = np.nan
    parts["manifest"] |= {"labels": "none"}
    _, page = report(write_cohort(tmp_path / "cohort", **parts), tmp_path)
    assert "Nothing was observed." in page.text and "The cohort has no labels." in page.text


def test_same_cohort_same_bytes(tmp_path: Path, plain: tuple[Cohort, str, Page]) -> None:
    cohort, text, _ = plain
    assert report(cohort, tmp_path)[0] == text


def test_the_command(tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The miniature's statistics are no fenced ones: one check fails, and the status tells."""
    cohort, out = cohort_of(tmp_path), tmp_path / "out.html"
    parser = Parser()
    add_arguments(parser)
    assert run_check(parser.parse_args([str(cohort.path), "--out", str(out)])) == 1
    said = capsys.readouterr().out
    assert all(check.name in said for check in check_cohort(cohort)) and str(out) in said
    assert "fails" in said and out.is_file()


def test_a_folder_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_report(cohort_of(tmp_path), tmp_path / "nowhere" / "report.html", ONE_FAILS)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]
