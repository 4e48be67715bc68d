"""The report's plan: which runs the tables want, and where each of them stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from bench import page
from bench.store import Status
from tables.definitions import TABLES, requests
from tables.differences import named_table
from tables.runs import FoundRun, Selection, find_runs


def found_by_table(selection: Selection, names: Sequence[str]) -> dict[str, list[FoundRun]]:
    """Every wanted run by table; tables share runs."""
    how = selection.preset, selection.seeds, selection.recipe, selection.overrides
    return {
        name: find_runs(selection, requests(named_table(name, selection), *how)) for name in names
    }


def section(selection: Selection, found: dict[str, list[FoundRun]]) -> str:
    """How many runs of each table are done, what failed, and every run."""
    distinct = {
        (run.folder or (run.request.label, run.request.task)): run
        for runs in found.values()
        for run in runs
    }
    states = ["declined", *map(str, Status)]
    rows = [
        [
            f'<a href="#{name}">{name}</a>',
            escape(TABLES[name].title),
            str(len(runs)),
            *(str(Counter(map(_state, runs))[state] or "–") for state in states),
        ]
        for name, runs in found.items()
    ]
    n_done = sum(run.is_done for run in distinct.values())
    seeds = ", ".join(map(str, selection.seeds))
    told = f"<p>{n_done} of {len(distinct)} runs are done; tables share runs. Seeds {seeds}.</p>"
    return page.section(
        "Runs",
        told,
        page.sortable_table(["table", "title", "runs", *states], rows),
        _failures(list(distinct.values())),
        page.folded("Every run", _every(list(distinct.values()))),
        name="runs",
    )


def _state(run: FoundRun) -> str:
    return "declined" if run.is_declined else str(run.status)


def _failures(runs: list[FoundRun]) -> str:
    lines = [
        f"<li>{escape(run.folder)}: {escape(run.reason)}</li>"
        for run in runs
        if run.status is Status.FAILED
    ]
    return page.titled("Failed", f'<ul class="notes">{"".join(lines)}</ul>') if lines else ""


def _every(runs: list[FoundRun]) -> str:
    rows = []
    for run in runs:
        seconds, commit = "–", "–"
        if run.is_done:
            seconds = f"{run.record['seconds']:.0f}"
            commit = str(run.record["commit"] or "unknown")
        request = run.request
        cells = [request.label, request.task, str(request.seed), _state(run), seconds, commit]
        rows.append([escape(cell) for cell in [*cells, run.folder or run.reason]])
    return page.sortable_table(
        ["row", "task", "seed", "status", "seconds", "commit", "folder"], rows
    )
