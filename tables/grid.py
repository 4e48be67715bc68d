"""A table laid out: headings and printed cells, before any format."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.data.vocabulary import Cxr, Task
from tables.build import Built, State
from tables.definitions import Column, Row

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


@dataclass(frozen=True)
class Cell:
    """What stands in one cell: the printed number, its stars, a remark, and how it stands out."""

    text: str
    stars: str = ""
    remark: str = ""
    is_best: bool = False
    is_best_baseline: bool = False


@dataclass(frozen=True)
class Grid:
    """A table ready to be formatted: one heading pair (group, name) and one cell per column."""

    headings: list[tuple[str, str]]
    rows: list[list[Cell]]


def grid(built: Built) -> Grid:
    """Lay a table out: method and inputs first, then the columns of each task."""
    with_ehr = any(not row.ehr for row in built.table.rows)
    headings = [("", "Method"), ("", "CXR"), *([("", "EHR")] if with_ehr else [])]
    cells = {
        (c["row"], c["task"], c["metric"], c["drop_ehr"]): c for c in built.frame.to_dict("records")
    }
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
            headings.append((group, "paper"))
            for line, cell in zip(rows, of_column, strict=True):
                line.append(Cell(_mean_and_sd(cell["paper_mean"], cell["paper_sd"])))
    return Grid(headings, rows)


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
        return Cell("undefined")
    if cell["n_seeds"] == 0:
        return Cell(f"0 of {n_seeds}")
    incomplete = state == State.INCOMPLETE
    shown = round(cell["mean"], 3)
    return Cell(
        text=_mean_and_sd(cell["mean"], cell["sd"]),
        stars=cell["stars"],
        remark=f" ({cell['n_seeds']} of {n_seeds})" if incomplete else "",
        is_best=not incomplete and shown == best,
        is_best_baseline=not incomplete and shown == best_baseline,
    )


def _mean_and_sd(mean: float, sd: float) -> str:
    if pd.isna(mean):
        return ""
    return f"{mean:.3f}" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"
