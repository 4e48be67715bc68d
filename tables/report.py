"""Everything about a cohort's runs as one HTML file that loads nothing: RESULTS/report.html.

python -m tables.report
python -m tables.report --tables table2 table3 --out icu.html

It shows what the store holds and trains nothing; tables and figures without runs are named with
the command that makes them. Films are drawn of simulated and open cohorts only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from bench import arguments, page
from bench.data.cohort import Cohort
from bench.environment import commit
from bench.errors import Parser, UserError, run_command
from bench.preparing import data_report
from bench.preparing.describing import MIN_PATIENTS
from bench.store import replacing
from tables import command, report_figures, report_runs, report_tables
from tables.build import Built, build
from tables.definitions import TABLES, named
from tables.differences import named_table
from tables.footer import provenance
from tables.runs import FoundRun, Selection
from tables.scores import BOOTSTRAP_SEED

LAST = (
    "figures", "cases", "runs", "origin", "labels", "statistics", "environment", "reproduce",
)  # fmt: skip
"""Sections after the tables."""

STATISTICS = (
    "The unit is the subject: stays and film pairs of one subject are not independent, so every "
    "resample draws test subjects and takes all their samples along. A cell is the mean ± standard "
    "deviation over seeds; its interval is that of the mean over seeds (95 %, percentile, cluster "
    f"bootstrap, seed {BOOTSTRAP_SEED}). A row is compared with the reference on the same "
    "resampled subjects, seed matched with seed; the two-sided p is Holm-adjusted over all rows of "
    "one task and metric, and stars come from the adjusted p only. A resample in which a metric is "
    "undefined is drawn again; above 5 % of those there is no p. All this takes the trained models "
    "as given; stars in brackets do not outlive resampling the seeds, too. No star does not mean "
    "no difference: tables.power says which difference could have been detected."
)


def write_report(
    selection: Selection,
    path: Path,
    names: Sequence[str] = tuple(TABLES),
    n_resamples: int | None = None,
) -> None:
    """Write the report to `path`, replacing what is there in one rename; arguments as `report`.

    Raises:
        UserError: the disk refuses.
    """
    text = report(selection, names, n_resamples)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def report(
    selection: Selection, names: Sequence[str] = tuple(TABLES), n_resamples: int | None = None
) -> str:
    """The report as HTML; the same records give the same text.

    Args:
        selection: which runs
        names: of the tables in it
        n_resamples: B of the bootstrap; None takes the preset's
    """
    tables = {name: _built(name, selection, n_resamples) for name in names}
    found = report_runs.found_by_table(selection, names)
    cohort = selection.cohort
    title = f"Report: {cohort.title}"
    parts = [
        _head(title, selection, names),
        *(report_tables.section(name, built, selection) for name, built in tables.items()),
        report_tables.efficiency(selection.store),
        report_figures.section(selection, [b for b in tables.values() if isinstance(b, Built)]),
        report_figures.gallery(selection),
        report_runs.section(selection, found),
        _cohort(cohort),
        page.section("Statistics", f"<p>{escape(STATISTICS)}</p>", name="statistics"),
        _environment(run for of_table in found.values() for run in of_table),
        _reproduce(selection, names),
    ]
    return page.page(title, parts, page.SORTING)


def _built(name: str, selection: Selection, n_resamples: int | None) -> Built | str:
    """A table, or why there is none."""
    try:
        return build(named_table(name, selection), selection, n_resamples)
    except UserError as error:
        return str(error)


def _head(title: str, selection: Selection, names: Sequence[str]) -> str:
    places = [*names, "table9", *LAST]
    texts = [name.capitalize().replace("Table", "Table ") for name in places]
    links = " ".join(
        f'<a href="#{name}">{text}</a>' for name, text in zip(places, texts, strict=True)
    )
    first, *warnings = provenance(selection.cohort, selection.preset)
    return "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            page.banners(data_report.labels(selection.cohort)),
            f"<p>{escape(first)}</p>",
            *map(page.warning, warnings),
            f"<nav>{links}</nav>",
        ]
    )


def _cohort(cohort: Cohort) -> str:
    """Origin and labels; small cells of patients are hidden."""
    min_patients = MIN_PATIENTS if cohort.is_credentialed else 0
    hidden = f"<p>Cells of 1 to {MIN_PATIENTS - 1} patients are hidden (–).</p>"
    return "\n".join(
        [
            data_report.origin(cohort, min_patients),
            data_report.label_tables(cohort, min_patients),
            hidden if min_patients else "",
        ]
    )


def _environment(runs: Iterable[FoundRun]) -> str:
    """Machines, versions and commits of the finished runs, each run once."""
    done = {run.folder: run.record for run in runs if run.is_done}
    counts: Counter[tuple[str, str]] = Counter()
    for record in done.values():
        counts["device", record["device"]] += 1
        counts["threads", str(record["threads"])] += 1
        counts["commit", str(record["commit"] or "unknown")] += 1
        counts.update(record["versions"].items())
    cells = [[escape(kind), escape(value), str(n)] for (kind, value), n in sorted(counts.items())]
    written = f"<p>{len(done)} finished runs; report written by commit {commit() or 'unknown'}.</p>"
    table = page.sortable_table(["what", "value", "runs"], cells) if cells else ""
    return page.section("Environment", written, table, name="environment")


def _reproduce(selection: Selection, names: Sequence[str]) -> str:
    """The commands that make everything here."""
    all_tables, same = " ".join(names), selection.arguments
    commands = {
        "Make what is missing": selection.sweep_command(all_tables),
        "Print and write the tables": f"python -m tables.render {all_tables} {same}",
        "Write this report": f"python -m tables.report --tables {all_tables} {same}",
    }
    lines = [f"<li>{what}:{page.command(text)}</li>" for what, text in commands.items()]
    told = "<p>Each number in a table links to the commands of its runs.</p>"
    return page.section(
        "Reproduce", told, f'<ul class="notes">{"".join(lines)}</ul>', name="reproduce"
    )


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m tables.report", description=__doc__)
    command.add_selection(p)
    p.add_argument("--tables", nargs="+", metavar="TABLE", help="which (all)")
    p.add_argument("--out", type=Path, metavar="FILE", help="HTML (RESULTS/report.html)")
    p.add_argument(
        "--resamples", type=arguments.positive, metavar="B", help="bootstrap resamples (preset's)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; a store without any run is no error."""
    arg = parser().parse_args(argv)
    names = arg.tables or list(TABLES)
    for name in names:
        named(name)
    selection = command.selection(arg, names[0])
    path = arg.out or selection.store.root / "report.html"
    write_report(selection, path, names, arg.resamples)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
