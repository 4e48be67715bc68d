"""The report's tables: sortable, with their notes, all their numbers and the commands of each."""

from __future__ import annotations

import math
from html import escape
from itertools import groupby

from bench import page
from bench.efficiency import measured
from bench.store import Store
from tables import table9
from tables.build import Built
from tables.footer import Note, missing, missing_at_once, notes
from tables.formats import BEST_NOTE, caption
from tables.grid import METRIC_TITLES, Cell, FrameRow, Grid, grid, runs_name
from tables.runs import FoundRun, Selection


def section(name: str, built: Built | str, selection: Selection) -> str:
    """A table and all behind it, or why there is none and the command that makes it."""
    if isinstance(built, str):
        note = Note("Not run.", selection.sweep_command(name))
        return page.section(_heading(name), _listed([note]), name=name)
    return page.section(
        f"{_heading(name)}: {caption(built)}",
        _table(grid(built), name),
        "<p><small>Click a heading to sort, a number for the commands of its runs.</small></p>",
        *_under(built),
        page.folded("Numbers in full", _numbers(built)),
        page.folded("Commands", _commands(built)),
        name=name,
    )


def _heading(name: str) -> str:
    return name.replace("table", "Table ")


def _under(built: Built) -> list[str]:
    """The footer; what is missing run by run is folded."""
    open_runs = missing(built)
    one_by_one = [page.folded("Missing, one by one", _listed(open_runs))] if open_runs else []
    return [_listed([BEST_NOTE, *notes(built), *missing_at_once(built)]), *one_by_one]


def _listed(lines: list[Note]) -> str:
    items = [
        f"<li>{escape(note.text)}{page.command(note.command) if note.command else ''}</li>"
        for note in lines
    ]
    return f'<ul class="notes">{"".join(items)}</ul>'


def _table(content: Grid, name: str) -> str:
    groups = [
        (group, len(list(of))) for group, of in groupby(group for group, _ in content.headings)
    ]
    above = "".join(f'<th class="group" colspan="{n}">{escape(group)}</th>' for group, n in groups)
    heads = "".join(f"<th>{page.sort_button(text)}</th>" for _, text in content.headings)
    rows = [f"<tr>{''.join(_cell(cell, name) for cell in row)}</tr>" for row in content.rows]
    return page.whole_table([above, heads], rows, "sortable")


def _cell(cell: Cell, table: str) -> str:
    kinds = ["best"] * cell.is_best + ["best-baseline"] * cell.is_best_baseline
    text = f'<span class="{" ".join(kinds)}">{escape(cell.text)}</span>'
    if cell.runs:
        text = f'<a href="#{table}-{escape(cell.runs)}">{text}</a>'
    raised = cell.note + cell.marks
    text += (f"<sup>{raised}</sup>" if raised else "") + escape(cell.remark)
    value = "" if math.isnan(cell.value) else f' data-value="{cell.value:.6f}"'
    return f"<td{value}>{text}</td>"


def _numbers(built: Built) -> str:
    """The long frame: every seed's value, intervals and p."""
    headings = ["row", "task", "metric", "values of the seeds", "mean", "95 % interval",
                "difference", "p", "adjusted p", "nested 95 % interval", "note"]  # fmt: skip
    rows = []
    for c in built.frame.to_dict("records"):
        values = ", ".join(f"{float(value):.3f}" for value in filter(None, c["values"].split(";")))
        cells = [c["row"], c["task"], _metric(c), values, _number(c["mean"]),
                 _interval(c["ci_low"], c["ci_high"]), _number(c["difference"]),
                 _number(c["p"], 4), _number(c["p_adjusted"], 4),
                 _interval(c["nested_low"], c["nested_high"]), c["note"]]  # fmt: skip
        rows.append([escape(cell) for cell in cells])
    return page.sortable_table(headings, rows)


def _metric(cell: FrameRow) -> str:
    base, _, disease = cell["metric"].rstrip("]").partition("[")
    hidden = f"{cell['drop_ehr']:.0%} w/o EHR" if cell["drop_ehr"] else ""
    return ", ".join(filter(None, [METRIC_TITLES[base], disease, hidden]))


def _number(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"


def _commands(built: Built) -> str:
    """A line for each row and setting: its runs and what to type to make them again."""
    names = {
        (c["row"], c["task"], c["drop_ehr"]): runs_name(c) for c in built.frame.to_dict("records")
    }
    lines = []
    for runs in built.task_runs:
        for row in built.table.rows:
            name = names[row.name, str(runs.task), runs.setting.drop_ehr]
            of_row = list(runs.of_row(row).values())
            made = "".join(_run(run, str(built.selection.cohort.path)) for run in of_row)
            lines.append(
                f'<tr id="{built.table.name}-{escape(name)}"><td class="text">{escape(name)}</td>'
                f'<td class="text">{made}</td></tr>'
            )
    heads = '<th>runs</th><th class="text">seed, status, folder and command</th>'
    return page.whole_table([heads], lines)


def _run(run: FoundRun, cohort: str) -> str:
    if run.is_declined:
        return f"<div>{escape(run.reason)}</div>"
    state = run.reason or str(run.status)
    return (
        f"<div>{run.request.seed}: {escape(state)}, {escape(run.folder)}"
        f"{page.command(run.request.command(cohort))}</div>"
    )


def efficiency(store: Store) -> str:
    """Table 9, if it was measured."""
    if not store.efficiency.is_file():
        note = Note("Not measured.", f"python -m bench.efficiency --results {store.root}")
        return page.section("Table 9", _listed([note]), name="table9")
    frame = table9.frame(measured(store.efficiency))
    shown = table9.printed(frame)
    cells = [[escape(str(cell)) for cell in row] for row in shown.to_numpy().tolist()]
    return page.section(
        "Table 9: what a prediction costs",
        page.sortable_table(list(shown.columns), cells),
        _listed([Note(note) for note in table9.notes(frame)]),
        name="table9",
    )
