"""A table laid out: headings and printed cells, before any format."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import pandas as pd

from bench.data.vocabulary import Cxr, Task
from tables.build import Built, State
from tables.definitions import Column, Row
from tables.runs import OUT_OF_MEMORY

FrameRow = dict[Hashable, Any]
"""A cell's row of the long frame, by column."""

TASK_TITLES = {
    Task.DISEASE_PROGRESSION: "Disease progression",
    Task.MORTALITY: "Mortality",
    Task.LENGTH_OF_STAY: "Length of stay",
}

METRIC_TITLES = {
    "auprc": "AUPRC",
    "auprc_trapezoid": "AUPRC (trapezoid)",
    "auroc": "AUROC",
    "kappa": "Kappa",
    "accuracy": "ACC",
    "macro_f1": "F1",
    "macro_precision": "Precision",
    "macro_recall": "Recall",
}


PAPER = "paper"
"""Heading of the paper's number beside ours."""

MEMORY_MARK = "†"
"""Behind a number of runs of which some ran out of GPU memory."""


@dataclass(frozen=True)
class Cell:
    """What stands in one cell: the printed number, its marks, a remark, and how it stands out.

    marks: stars of the test, and `MEMORY_MARK`
    note: letter of its footnote
    value: what it is sorted by, NaN if it has no number
    runs: name of the runs that it comes from (`runs_name`)
    """

    text: str
    marks: str = ""
    remark: str = ""
    is_best: bool = False
    is_best_baseline: bool = False
    note: str = ""
    value: float = math.nan
    runs: str = ""


@dataclass(frozen=True)
class Grid:
    """A table ready to be formatted: one heading pair (group, name) and one cell per column.

    notes: texts of the footnotes, by letter
    """

    headings: list[tuple[str, str]]
    rows: list[list[Cell]]
    notes: dict[str, str]

    @property
    def n_text(self) -> int:
        """Columns before the first metric."""
        return sum(not group for group, _ in self.headings)

    def stacked(self) -> tuple[list[tuple[str, str]], dict[str, list[list[Cell]]]]:
        """Headings of ours, and under each other, by title: our rows, the paper's, differences."""
        n, has_paper = self.n_text, any(name == PAPER for _, name in self.headings)
        titles = ["Ours", "Printed in the paper", "Δ: ours minus the paper's"]
        step = len(titles) if has_paper else 1
        parts = {
            title: [[*row[:n], *row[n + place :: step]] for row in self.rows]
            for place, title in enumerate(titles[:step])
        }
        shown = {
            title: [row for row in rows if any(cell.text for cell in row[n:])]
            for title, rows in parts.items()
        }
        return [*self.headings[:n], *self.headings[n::step]], shown


def grid(built: Built) -> Grid:
    """Lay a table out: method and inputs first, then the columns of each task."""
    with_ehr = any(not row.ehr for row in built.table.rows)
    headings = [("", "Method"), ("", "CXR"), *([("", "EHR")] if with_ehr else [])]
    cells = {
        (c["row"], c["task"], c["metric"], c["drop_ehr"]): c for c in built.frame.to_dict("records")
    }
    notes = paper_notes(built)
    letters = {text: letter for letter, text in notes.items()}
    rows = []
    for row in built.table.rows:
        title = next(c["title"] for key, c in cells.items() if key[0] == row.name)
        inputs = [_films(row), *(["yes" if row.ehr else "no"] if with_ehr else [])]
        rows.append([Cell(title), *map(Cell, inputs)])
    for column in built.table.columns:
        group = TASK_TITLES[column.task]
        headings.append((group, _metric_title(column)))
        key = column.task, column.metric, column.drop_ehr
        of_column = [cells[row.name, *key] for row in built.table.rows]
        best, best_baseline = _best(of_column, built.reference)
        for line, cell in zip(rows, of_column, strict=True):
            line.append(_printed(cell, len(built.selection.seeds), best, best_baseline))
        if built.shows_paper:
            headings += [(group, PAPER), (group, "Δ")]
            for line, cell in zip(rows, of_column, strict=True):
                line += [_of_paper(cell, letters), _difference_to_paper(cell)]
    return Grid(headings, rows, notes)


def paper_notes(built: Built) -> dict[str, str]:
    """Footnotes to the paper's numbers, by letter in the order of the columns."""
    texts = [text for text in dict.fromkeys(built.frame["paper_note"]) if text]
    return dict(zip(ascii_lowercase, texts, strict=False))


def memory_notes(built: Built) -> list[str]:
    """What `MEMORY_MARK` stands for, and of which runs; empty if none has it."""
    of_runs = [
        f"{runs_name({'row': row.name, 'task': runs.task, 'drop_ehr': runs.setting.drop_ehr})} "
        f"seed {seed} ({note.removeprefix(f'{OUT_OF_MEMORY}: ')})"
        for runs in built.task_runs
        for (row, seed), run in runs.found.items()
        for note in run.memory_notes
    ]
    if not of_runs:
        return []
    return [
        f"{MEMORY_MARK} {OUT_OF_MEMORY} in a run behind the number, so it was computed in smaller "
        "parts; where gradients were, batch normalisation saw smaller batches than in the other "
        f"runs: {', '.join(of_runs)}."
    ]


def _of_paper(cell: FrameRow, letters: dict[str, str]) -> Cell:
    text = _mean_and_sd(cell["paper_mean"], cell["paper_sd"])
    note = letters.get(cell["paper_note"], "")
    return Cell(text, note=note, value=cell["paper_mean"])


def _difference_to_paper(cell: FrameRow) -> Cell:
    """Ours minus the paper's, and whether its mean lies in our interval."""
    difference = cell["paper_difference"]
    if pd.isna(difference):
        return Cell("")
    where = "in" if cell["paper_in_interval"] == "yes" else "out"
    return Cell(f"{difference:+.3f} {where}".replace("-", "−"), value=difference)


def runs_name(cell: FrameRow) -> str:
    """Name of the runs of a row in a setting, e.g. 'medfuse-long-mortality'."""
    dropped = f"-without{cell['drop_ehr']:.0%}".rstrip("%") if cell["drop_ehr"] else ""
    return f"{cell['row']}-{cell['task']}{dropped}"


def _films(row: Row) -> str:
    return "–" if row.cxr is Cxr.NONE else str(row.cxr)


def _metric_title(column: Column) -> str:
    base, _, disease = column.metric.rstrip("]").partition("[")
    if column.drop_ehr:
        return f"{METRIC_TITLES[base]}, {column.drop_ehr:.0%} w/o EHR"
    return disease or METRIC_TITLES[base]


def _best(cells: Sequence[FrameRow], reference: Row) -> tuple[float, float]:
    """Best printed mean of a column, and best of the rows other than the reference."""

    def best(candidates: Sequence[FrameRow]) -> float:
        return max((round(c["mean"], 3) for c in candidates), default=float("nan"))

    complete = [c for c in cells if c["state"] == State.COMPLETE]
    return best(complete), best([c for c in complete if c["row"] != reference.name])


def _printed(cell: FrameRow, n_seeds: int, best: float, best_baseline: float) -> Cell:
    state = cell["state"]
    if state == State.DECLINED:
        return Cell("–")
    if state == State.UNDEFINED:
        return Cell("undefined", runs=runs_name(cell))
    if cell["n_seeds"] == 0:
        return Cell(f"0 of {n_seeds}", runs=runs_name(cell))
    incomplete = state == State.INCOMPLETE
    count = f" ({cell['n_seeds']} of {n_seeds})" if incomplete else ""
    shown = round(cell["mean"], 3)
    return Cell(
        text=_mean_and_sd(cell["mean"], cell["sd"]),
        marks=cell["stars"] + (MEMORY_MARK if OUT_OF_MEMORY in cell["note"] else ""),
        remark=count + (" (stale)" if cell["n_stale"] else ""),
        is_best=not incomplete and shown == best,
        is_best_baseline=not incomplete and shown == best_baseline,
        value=cell["mean"],
        runs=runs_name(cell),
    )


def _mean_and_sd(mean: float, sd: float) -> str:
    if pd.isna(mean):
        return ""
    text = f"{mean:.3f}" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"
    return text.replace("-", "−")
