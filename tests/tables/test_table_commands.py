"""The commands of tables and figures: what they write, and one line for wrong usage."""

import pytest

from bench.errors import run_command
from bench.store import Store
from tables import figures, power, render, report
from tables.runs import Selection
from tests.tables.mini_store import SEEDS, fill


@pytest.fixture
def place(cohort, tmp_path):
    """Arguments that name a cohort on disk and a store with all runs."""
    results = tmp_path / "results"
    fill(Selection(cohort, Store(results), "demo", SEEDS))
    return ["--cohort", str(cohort.path), "--results", str(results)]


def refused(main, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main(arguments))
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.count("\n") == 1
    return line


def test_render_prints_and_writes_every_format(place, tmp_path, capsys):
    assert render.main(["table2", *place]) == 0
    printed = capsys.readouterr().out
    written = sorted(path.name for path in (tmp_path / "results" / "tables").iterdir())
    assert written == ["table2.csv", "table2.md", "table2.tex", "table2.txt", "table2_wide.csv"]
    assert (tmp_path / "results" / "tables" / "table2.txt").read_text() in printed
    assert "\x1b" not in printed


def test_figures_writes_picture_and_numbers(place, tmp_path, capsys):
    assert figures.main(["figure2b", *place, "--attention", "static"]) == 0
    written = sorted(path.name for path in (tmp_path / "results" / "figures").iterdir())
    assert written == ["figure2b.csv", "figure2b.pdf", "figure2b.png"]


@pytest.mark.parametrize(
    ("main", "arguments", "says"),
    [
        (render.main, ["tabel2"], "did you mean 'table2'"),
        (figures.main, ["figure2c"], "did you mean 'figure2"),
        (render.main, ["table2", "--reference", "dipro"], "did you mean 'dipro-long'"),
        (render.main, ["table2", "--resamples", "0"], "above 0"),
        (render.main, ["table2", "--labels", "gold"], "not about film pairs"),
        (render.main, ["table2", "--labels", "golden"], "did you mean 'gold'"),
        (figures.main, ["figure2b", "--attention", "both"], "invalid choice"),
    ],
)
def test_wrong_usage_is_one_line(main, arguments, says, place, tmp_path, capsys):
    assert says in refused(main, [*arguments, *place], capsys)
    assert not (tmp_path / "results" / "tables").exists()


@pytest.mark.parametrize("figure", ["forest", "learning", "mortality_curves"])
def test_figures_of_rows_take_the_named_table(figure, cohort, tmp_path, capsys):
    place = ["--cohort", str(cohort.path), "--results", str(tmp_path / "none")]
    said = refused(figures.main, [figure, "--table", "table12", *place], capsys)
    assert "python -m bench.sweep --table table12" in said


@pytest.mark.parametrize("parser", [figures.parser, render.parser, report.parser, power.parser])
def test_help_prints_no_empty_or_long_default(parser):
    told = " ".join(parser().format_help().split())
    assert "(default: )" not in told
    assert "(default: ['" not in told


@pytest.mark.parametrize(("main", "name"), [(render.main, "table2"), (figures.main, "figure2b")])
def test_without_runs_or_cohort_the_next_command_is_named(main, name, cohort, tmp_path, capsys):
    empty = ["--cohort", str(cohort.path), "--results", str(tmp_path / "none")]
    assert "python -m bench.sweep --table table2" in refused(main, [name, *empty], capsys)
    nowhere = ["--cohort", str(tmp_path / "nowhere")]
    assert "is not a cohort" in refused(main, [name, *nowhere], capsys)
    assert not (tmp_path / "none").exists()


def test_the_default_cohort_is_not_simulated_by_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "bench.sweep --table table2 --preset demo" in refused(render.main, ["table2"], capsys)
    assert not list(tmp_path.iterdir())
